// Products of a mixture's experts, and their adapters': launches of native/cuda/kernels/grouped.cu (precision bf16),
// grouped-exact.cu (fp32), grouped-rows.cu (few tokens) and grouped-outer.cu. Layers of one weight: products.ts.

import type { Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import {
  type GroupedRows,
  isQuantizedStack,
  type Kernels,
  type PlainGroupedGradPart,
  type PlainGroupedPart,
  type PlainStack,
  plainParts,
} from "../backend.ts";
import { dtypeCodes } from "../operand-check.ts";
import { type CudaGpu, scratchTensor, withScratch } from "./gpu.ts";

/** As kQuantized in grouped.h. */
const quantized = 16;
/** Rows of one expert that a block takes, and columns, in precision bf16 and in fp32. */
const tileRows = 64;
const tileColumns = { bf16: 128, fp32: 64 };
const outerSide = 64;
/** Columns of one row that a block takes where tokens are few. */
const rowColumns = 8;

interface Product {
  readonly a: Tensor;
  readonly index?: Tensor;
  readonly stack: PlainStack;
  /** c = a W in place of a W^T. */
  readonly back: boolean;
  readonly c: Tensor;
  readonly bias?: Tensor;
  readonly accumulate?: boolean;
  readonly scale?: number;
}

/** Fields of the arguments that say what a stack is. */
function stackOf(stack: PlainStack) {
  const [, stackRows, stackWidth] = stack.shape as readonly [number, number, number];
  invariant(stackRows * stackWidth < 2 ** 32, `an expert's matrix of ${stackRows} x ${stackWidth}`);
  const sizes = { stackRows, stackWidth };
  if (!isQuantizedStack(stack)) {
    const type = dtypeCodes[stack.dtype];
    const aligned = stack.byteOffset % 16 === 0 && stackWidth % 8 === 0;
    const stackAligned = aligned ? 1 : 0;
    return { ...sizes, dense: stack, stackType: type, stackAligned, blockSize: 1, nestedBlockSize: 1 };
  }
  const { codes, absmax, codebook, nested, blockSize } = stack;
  return {
    ...sizes,
    ...{ codes, absmax, codebook, blockSize, stackType: quantized, stackAligned: 0 },
    nestedCodebook: nested?.codebook,
    nestedAbsmax: nested?.absmax,
    nestedOffsets: nested?.offsets,
    nestedBlockSize: nested?.blockSize ?? 1,
  };
}

function multiply(gpu: CudaGpu, { offsets, few }: GroupedRows, product: Product): void {
  const { a, index, stack, back, c, bias, accumulate = false, scale = 1 } = product;
  const [experts, out, width] = stack.shape as readonly [number, number, number];
  const [n, depth] = back ? [width, out] : [out, width];
  const count = c.shape[0]!;
  const numbers = { experts, n, depth, accumulate: accumulate ? 1 : 0, scale };
  const tensors = { a, index, offsets, bias, c, ...stackOf(stack) };
  if (few && !back) {
    const grid = [count, Math.ceil(n / rowColumns)] as const;
    gpu.launch("groupedRows", grid, { ...tensors, ...numbers });
    return;
  }
  const exact = gpu.precision === "fp32";
  const columns = exact ? tileColumns.fp32 : tileColumns.bf16;
  // Tiles there are at most: an expert's last may be part of one.
  const tiles = Math.floor(count / tileRows) + Math.min(experts, count);
  const values = { ...tensors, ...numbers };
  const grid = [tiles, Math.ceil(n / columns)] as const;
  if (exact) gpu.launch(back ? "groupedExactBack" : "groupedExactForward", grid, values);
  else gpu.launch(back ? "groupedBack" : "groupedForward", grid, values);
}

/** c_e += scale * a^T b over expert e's rows; c [E, m, n]. */
function outer(
  gpu: CudaGpu,
  { offsets }: GroupedRows,
  a: Tensor,
  b: Tensor,
  index: Tensor | undefined,
  c: Tensor,
  scale = 1,
): void {
  const [m, n] = [a.shape[1]!, b.shape[1]!];
  const experts = offsets.shape[0]! - 1;
  const [high, across] = [Math.ceil(m / outerSide), Math.ceil(n / outerSide)];
  gpu.launch("groupedOuter", [experts, high * across], { a, b, index, offsets, c, m, n, across, scale });
}

function forward(
  gpu: CudaGpu,
  x: Tensor,
  rows: GroupedRows,
  { weight, bias, adapter, y }: PlainGroupedPart,
): void {
  multiply(gpu, rows, { a: x, index: rows.index, stack: weight, back: false, c: y, bias });
  if (!adapter) return;
  const [experts, , width] = weight.shape as readonly [number, number, number];
  const { u, b, scale } = adapter;
  const a = { ...adapter.a, shape: [experts, b.shape[2]!, width] };
  multiply(gpu, rows, { a: x, index: rows.index, stack: a, back: false, c: u });
  multiply(gpu, rows, { a: u, stack: b, back: false, c: y, accumulate: true, scale });
}

function backward(
  gpu: CudaGpu,
  x: Tensor | undefined,
  rows: GroupedRows,
  { weight, dy, adapter, dWeight, dBias }: PlainGroupedGradPart,
  dx: Tensor | undefined,
): void {
  const count = dy.shape[0]!;
  const [experts, out, width] = weight.shape as readonly [number, number, number];
  if (count === 0) return;
  if (dx) multiply(gpu, rows, { a: dy, stack: weight, back: true, c: dx });
  if (dWeight) outer(gpu, rows, dy, given(x), rows.index, dWeight);
  if (dBias) {
    const values = { a: dy, offsets: rows.offsets, c: dBias, m: out };
    gpu.launch("groupedColumnSums", [experts, Math.ceil(out / 128)], values);
  }
  if (!adapter) return;
  const { u, b, scale, dA, dB } = adapter;
  if (dB) outer(gpu, rows, dy, u, undefined, dB, scale);
  if (!dA && !dx) return;
  const rank = b.shape[2]!;
  withScratch(gpu, 4 * count * rank, (memory) => {
    const du = scratchTensor(memory, [count, rank]);
    multiply(gpu, rows, { a: dy, stack: b, back: true, c: du, scale });
    if (dA) outer(gpu, rows, du, given(x), rows.index, dA);
    const a = { ...adapter.a, shape: [experts, rank, width] };
    if (dx) multiply(gpu, rows, { a: du, stack: a, back: true, c: dx, accumulate: true });
  });
}

function given(x: Tensor | undefined): Tensor {
  invariant(x, "groupedLinearBackward: x for the gradients of weights");
  return x;
}

export function groupedKernels(gpu: CudaGpu): Pick<Kernels, "groupedLinear" | "groupedLinearBackward"> {
  return {
    groupedLinear(x, rows, part) {
      if (part.y.shape[0]! > 0) forward(gpu, x, rows, plainParts([part])[0]!);
    },
    groupedLinearBackward: (x, rows, part, dx) => backward(gpu, x, rows, plainParts([part])[0]!, dx),
  };
}
