// Reference products of a mixture's experts: linear.ts once an expert, on its rows brought together.

import { rows as rowsOf, type Tensor, tensorBytes, viewOf } from "../../tensor/tensor.ts";
import {
  type GroupedGradPart,
  type GroupedPart,
  type GroupedRows,
  isBlockStack,
  isQuantizedStack,
  type Matrix,
  type MatrixStack,
  type StackAdapter,
} from "../backend.ts";
import { linear, linearBackward } from "./linear.ts";
import type { ReferenceMemory } from "./memory.ts";

/** The matrix of one expert. */
function matrixAt(memory: ReferenceMemory, stack: MatrixStack, expert: number): Matrix {
  const [, out, width] = stack.shape as readonly [number, number, number];
  if (isBlockStack(stack)) {
    const { type, blocks } = stack;
    const size = blocks.shape[0]! / stack.shape[0];
    const own = { ...blocks, byteOffset: blocks.byteOffset + expert * size, shape: [size] };
    return { kind: "blocks", type, shape: [out, width], blocks: own };
  }
  if (!isQuantizedStack(stack)) return { ...rowsOf(stack, expert, expert + 1), shape: [out, width] };
  const { codebook, blockSize, nested } = stack;
  const blocks = Math.ceil((out * width) / blockSize);
  const slice = (tensor: Tensor, size: number) => rowsOf(tensor, expert * size, (expert + 1) * size);
  return {
    kind: "quantized",
    shape: [out, width],
    codes: slice(stack.codes, Math.ceil((out * width) / 2)),
    codebook,
    blockSize,
    absmax: slice(stack.absmax, blocks),
    nested: nested && {
      codebook: nested.codebook,
      absmax: slice(nested.absmax, Math.ceil(blocks / nested.blockSize)),
      blockSize: nested.blockSize,
      offset: memory.values(nested.offsets)[expert]!,
    },
  };
}

function adapterAt<T extends StackAdapter & GroupedGradPart["adapter"]>(
  adapter: T | undefined,
  expert: number,
  first: number,
  last: number,
) {
  if (!adapter) return undefined;
  const [, out, rank] = adapter.b.shape as readonly [number, number, number];
  const a = (tensor: Tensor) => rowsOf(tensor, expert * rank, (expert + 1) * rank);
  const b = (tensor: Tensor) => ({ ...rowsOf(tensor, expert, expert + 1), shape: [out, rank] });
  return {
    a: a(adapter.a),
    b: b(adapter.b),
    scale: adapter.scale,
    u: rowsOf(adapter.u, first, last),
    dA: adapter.dA && a(adapter.dA),
    dB: adapter.dB && b(adapter.dB),
  };
}

/** Calls use(expert, first, last, input) for every expert that has rows; input is its rows of x together. */
function eachExpert(
  memory: ReferenceMemory,
  x: Tensor | undefined,
  { offsets, index }: GroupedRows,
  use: (expert: number, first: number, last: number, input: Tensor | undefined) => void,
): void {
  const bounds = memory.ints(offsets);
  for (let expert = 0; expert + 1 < bounds.length; expert++) {
    const [first, last] = [bounds[expert]!, bounds[expert + 1]!];
    if (first === last) continue;
    if (!x || !index) {
      use(expert, first, last, x && rowsOf(x, first, last));
      continue;
    }
    const width = x.shape[1]!;
    const buffer = memory.allocate(tensorBytes([last - first, width], x.dtype), "workspace");
    const together = viewOf(buffer, [last - first, width], x.dtype);
    const [from, to, picks] = [memory.floats(x), memory.floats(together), memory.ints(index)];
    for (let i = first; i < last; i++) {
      to.set(from.subarray(picks[i]! * width, (picks[i]! + 1) * width), (i - first) * width);
    }
    use(expert, first, last, together);
    memory.free(buffer);
  }
}

const expertOf = (tensor: Tensor, expert: number): Tensor => ({
  ...rowsOf(tensor, expert, expert + 1),
  shape: tensor.shape.slice(1),
});

export function groupedLinear(
  memory: ReferenceMemory,
  x: Tensor,
  rows: GroupedRows,
  { weight, bias, adapter, y }: GroupedPart,
): void {
  eachExpert(memory, x, rows, (expert, first, last, input) => {
    linear(memory, input!, [
      {
        weight: matrixAt(memory, weight, expert),
        bias: bias && expertOf(bias, expert),
        adapter: adapterAt(adapter, expert, first, last),
        y: rowsOf(y, first, last),
      },
    ]);
  });
}

export function groupedLinearBackward(
  memory: ReferenceMemory,
  x: Tensor | undefined,
  rows: GroupedRows,
  { weight, dy, adapter, dWeight, dBias }: GroupedGradPart,
  dx: Tensor | undefined,
): void {
  eachExpert(memory, x, rows, (expert, first, last, input) => {
    const part = {
      weight: matrixAt(memory, weight, expert),
      dy: rowsOf(dy, first, last),
      adapter: adapterAt(adapter, expert, first, last),
      dWeight: dWeight && expertOf(dWeight, expert),
      dBias: dBias && expertOf(dBias, expert),
    };
    linearBackward(memory, input, [part], dx && rowsOf(dx, first, last), false);
  });
}
