// Linear layers with low-rank adapters on a card, forward. Layers that share x have it packed once, and their A's are one product;
// an adapter's second product is a second term of the layer's own, so that y is written once. Not here: the backward pass
// (linear-backward.ts), few rows (few-rows.ts), products themselves (products.ts).

import type { Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import { type Adapter, type Kernels, type PlainLinearPart, plainParts } from "../backend.ts";
import { linearFewRows, mostFewRows } from "./few-rows.ts";
import type { CudaGpu } from "./gpu.ts";
import {
  adapterGroups,
  addressAt,
  checkAdapter,
  columnsOf,
  drops,
  operandType,
  rankOf,
  widthOf,
} from "./linear-adapters.ts";
import { linearBackward } from "./linear-backward.ts";
import {
  addressOf,
  checkMatrix,
  operandBytes,
  Packing,
  type Scratch,
  withScratchOf,
} from "./product-operands.ts";
import type { Operand, Term } from "./product-types.ts";
import { multiplyWeight, sliceStepsOfDepth, sumSlices } from "./products.ts";

function checkParts(gpu: CudaGpu, x: Tensor, parts: readonly PlainLinearPart[]): void {
  const [tokens, inputs] = x.shape as [number, number];
  addressOf(gpu, x, tokens * inputs, "x");
  for (const { weight, adapter, bias, residual, y } of parts) {
    const outputs = weight.shape[0]!;
    invariant(weight.shape[1] === inputs, `linear: weight [${weight.shape}] on input [${x.shape}]`);
    checkMatrix(gpu, weight);
    if (adapter) checkAdapter(gpu, adapter, tokens, weight.shape);
    if (bias) addressOf(gpu, bias, outputs, "a bias");
    if (residual) addressOf(gpu, residual, tokens * outputs, "a residual");
    addressOf(gpu, y, tokens * outputs, "y");
  }
}

/** Adapters of a group on their way down: their x and A's packed, and where scale * u goes. */
interface Down {
  readonly group: readonly Adapter[];
  readonly x: Operand;
  readonly stack: Operand;
  readonly ups: readonly Term[];
}

function prepareDown(
  gpu: CudaGpu,
  scratch: Scratch,
  packing: Packing,
  x: Tensor,
  xs: Operand,
  group: readonly Adapter[],
): Down {
  const [tokens, inputs] = x.shape as [number, number];
  const { dropout } = group[0]!;
  return {
    group,
    x: drops(group[0]!) ? packing.rows(x, tokens, inputs, { dropout }) : xs,
    stack: packing.stack(
      group.map(({ a }) => a),
      inputs,
    ),
    ups: group.map((adapter) => {
      const [rank, pitch] = [rankOf(adapter), widthOf(adapter)];
      const address = scratch.take(operandBytes(gpu) * tokens * pitch);
      return { a: { address, pitch }, b: packing.rows(adapter.b, adapter.b.shape[0]!, rank), k: rank };
    }),
  };
}

/** u = x A^T of a group's adapters, and scale * u as an operand. */
function multiplyDown(gpu: CudaGpu, scratch: Scratch, tokens: number, inputs: number, down: Down): void {
  const { group, x, stack, ups } = down;
  const first = columnsOf(group);
  const shape = { form: "forward", m: tokens, n: first.at(-1)! } as const;
  // Slices by K alone, so that a row's bits do not depend on how many there are.
  const sums = sumSlices(
    gpu,
    scratch,
    shape,
    [{ a: x, b: stack, k: inputs }],
    sliceStepsOfDepth(gpu, inputs),
  );
  gpu.launch(
    "productReduceParts",
    [Math.ceil((tokens * Math.max(...group.map(widthOf))) / 256), group.length],
    {
      partials: sums.address,
      target: group.map(({ u }) => u),
      packed: ups.map((up) => up.a.address),
      first: first.slice(0, -1),
      count: group.map(rankOf),
      wide: group.map(widthOf),
      pitch: ups.map((up) => up.a.pitch),
      factor: group.map(({ scale }) => scale),
      slices: sums.slices,
      m: tokens,
      n: shape.n,
      alongRows: 0,
      accumulate: 0,
      packedType: operandType(gpu),
    },
  );
}

function linear(gpu: CudaGpu, x: Tensor, parts: readonly PlainLinearPart[]): void {
  const [tokens, inputs] = x.shape as [number, number];
  checkParts(gpu, x, parts);
  if (tokens === 0) return;
  if (tokens <= mostFewRows) {
    linearFewRows(gpu, x, parts);
    return;
  }
  withScratchOf(gpu, (scratch) => {
    const packing = new Packing(gpu, scratch);
    const xs = packing.rows(x, tokens, inputs);
    const adapters = parts.flatMap(({ adapter }) => (adapter ? [adapter] : []));
    const downs = adapterGroups(adapters).map((group) => prepareDown(gpu, scratch, packing, x, xs, group));
    packing.run();
    for (const down of downs) multiplyDown(gpu, scratch, tokens, inputs, down);
    const ups = new Map(
      downs.flatMap(({ group, ups: own }) => group.map((adapter, i) => [adapter, own[i]!])),
    );
    for (const { weight, adapter, bias, residual, y } of parts) {
      const result = {
        c: addressAt(y),
        ldc: weight.shape[0]!,
        bias: bias && addressAt(bias),
        residual: residual && addressAt(residual),
      };
      const extra = adapter && ups.get(adapter);
      multiplyWeight(gpu, { form: "forward", rows: tokens, a: xs, weight, extra, result });
    }
  });
}

export function linearKernels(gpu: CudaGpu): Pick<Kernels, "linear" | "linearBackward"> {
  return {
    linear: (x, parts) => linear(gpu, x, plainParts(parts)),
    linearBackward: (x, parts, dx, accumulate) => linearBackward(gpu, x, plainParts(parts), dx, accumulate),
  };
}
