// Products of a mixture's experts, and their adapters': launches of grouped-gemm.wgsl, grouped-outer.wgsl and
// grouped-bias.wgsl. Stacks larger than a binding are walked in windows of experts. Layers of one weight: linear.ts.

import { dtypeBytes } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { BugError, invariant } from "../../util/errors.ts";
import {
  type GroupedRows,
  isQuantizedStack,
  type Kernels,
  type PlainGroupedGradPart,
  type PlainGroupedPart,
  type PlainStack,
  plainParts,
} from "../backend.ts";
import { f32, type Operand, operand } from "./commands.ts";
import { kindOf } from "./elementwise.ts";
import { type Gpu, windows, withScratch } from "./gpu.ts";
import type { Variant } from "./pipelines.ts";

/** As TILE in grouped-gemm.wgsl. */
const tileSide = 32;

/** C (+)= scale * A W_e^T, or A W_e when `transposed`, by expert. */
interface GroupedProduct {
  readonly a: Tensor;
  readonly rows: GroupedRows;
  /** Whether a's rows are found by the index. */
  readonly indexed: boolean;
  readonly weight: PlainStack;
  readonly transposed: boolean;
  readonly c: Tensor;
  readonly accumulate: boolean;
  readonly scale?: number;
}

interface StackForm {
  readonly name: string;
  readonly files: Variant["files"];
  readonly constants: Readonly<Record<string, number>>;
  /** What is bound of experts [first, first + count). */
  operands(first: number, count: number): Operand[];
  /** The most that any one operand holds of an expert. */
  readonly expertBytes: number;
}

function bytesAt(tensor: Tensor, startBytes: number, sizeBytes: number, unit: number): Operand {
  return { buffer: tensor.buffer, byteOffset: tensor.byteOffset + startBytes, sizeBytes, unit };
}

function formOf(weight: PlainStack): StackForm {
  const [, out, width] = weight.shape as readonly [number, number, number];
  const size = out * width;
  if (!isQuantizedStack(weight)) {
    const bytes = dtypeBytes[weight.dtype];
    const kind = kindOf(weight.dtype);
    if (kind > 2) throw new BugError(`a product of experts with ${weight.dtype}`);
    return {
      name: weight.dtype,
      files: ["grouped-dense"],
      constants: { KIND: kind },
      operands: (first, count) => [bytesAt(weight, first * size * bytes, count * size * bytes, bytes)],
      expertBytes: size * bytes,
    };
  }
  const { codes, absmax, codebook, nested, blockSize } = weight;
  const blocks = Math.ceil(size / blockSize);
  const perExpert = Math.ceil(size / 2);
  const scaleBytes = nested ? 1 : 4;
  const outerBytes = nested ? 4 * Math.ceil(blocks / nested.blockSize) : 0;
  return {
    name: nested ? "nested" : "quantized",
    files: [nested ? "grouped-scales-nested" : "grouped-scales-plain", "grouped-quantized"],
    constants: {},
    operands: (first, count) => [
      bytesAt(codes, first * perExpert, count * perExpert, 1),
      bytesAt(absmax, first * blocks * scaleBytes, count * blocks * scaleBytes, scaleBytes),
      ...(nested
        ? [bytesAt(nested.absmax, first * outerBytes, count * outerBytes, 4), operand(nested.offsets)]
        : []),
      operand(codebook),
      ...(nested ? [operand(nested.codebook)] : []),
    ],
    expertBytes: Math.max(perExpert, blocks * scaleBytes),
  };
}

function multiply(gpu: Gpu, product: GroupedProduct): void {
  const { a, rows, weight, transposed, c, accumulate, scale = 1 } = product;
  const [experts, out, width] = weight.shape as readonly [number, number, number];
  const count = c.shape[0]!;
  const [n, k] = transposed ? [width, out] : [out, width];
  if (count === 0) return;
  const index = product.indexed ? rows.index : undefined;
  const form = formOf(weight);
  const flags = {
    INDEX: index ? 1 : 0,
    TRANSPOSED: transposed ? 1 : 0,
    ACCUMULATE: accumulate ? 1 : 0,
  };
  const pipeline = gpu.pipelines.get(`grouped-gemm ${form.name} ${Object.values(flags)}`, () => ({
    files: ["grouped-params", ...form.files, "grouped-gemm"],
    constants: { ...form.constants, ...flags },
    offsetWords: 8,
  }));
  const quantized = isQuantizedStack(weight) ? weight : undefined;
  for (const { start, length } of windows(gpu, experts, form.expertBytes)) {
    const operands = [
      operand(a),
      index ? operand(index) : gpu.commands.nothing,
      operand(rows.offsets),
      operand(c),
      ...form.operands(start, length),
    ];
    const params = [
      ...[n, k, width, out * width, start, start + length, f32(scale)],
      quantized?.blockSize ?? 0,
      quantized ? Math.ceil((out * width) / quantized.blockSize) : 0,
      quantized?.nested?.blockSize ?? 1,
    ];
    // Tiles there are at most: an expert's last may be part of one.
    const tiles = Math.floor(count / tileSide) + Math.min(length, count);
    const most = gpu.limits.maxComputeWorkgroupsPerDimension;
    invariant(tiles <= most, `a product of experts over ${count} rows`);
    gpu.commands.launch(pipeline, operands, params, [Math.ceil(n / tileSide), tiles, 1]);
  }
}

/** c_e += scale * a^T b over expert e's rows; c [E, m, n]; without b the sums of a's columns. */
function outer(
  gpu: Gpu,
  rows: GroupedRows,
  experts: number,
  a: Tensor,
  b: { readonly tensor: Tensor; readonly indexed: boolean } | undefined,
  c: Tensor,
  scale = 1,
): void {
  const [m, n] = [a.shape[1]!, b?.tensor.shape[1] ?? 1];
  const index = b?.indexed ? rows.index : undefined;
  const flags = { INDEX: index ? 1 : 0, ONES: b ? 0 : 1 };
  const pipeline = gpu.pipelines.get(`grouped-outer ${Object.values(flags)}`, () => ({
    files: ["grouped-outer"],
    constants: flags,
  }));
  const { nothing } = gpu.commands;
  for (const { start, length } of windows(gpu, experts, 4 * m * n)) {
    const operands = [
      operand(a),
      index ? operand(index) : nothing,
      operand(rows.offsets, start),
      operand(c, start * m * n, length * m * n),
      b ? operand(b.tensor) : nothing,
    ];
    const grid = [Math.ceil(n / 16), Math.ceil(m / 16), length] as const;
    gpu.commands.launch(pipeline, operands, [m, n, length, f32(scale)], grid);
  }
}

function forward(
  gpu: Gpu,
  x: Tensor,
  rows: GroupedRows,
  { weight, bias, adapter, y }: PlainGroupedPart,
): void {
  const count = y.shape[0]!;
  if (count === 0) return;
  const [experts, out, width] = weight.shape as readonly [number, number, number];
  if (bias) {
    const pipeline = gpu.pipelines.get("grouped-bias", () => ({ files: ["grouped-bias"] }));
    const operands = [operand(rows.offsets), operand(bias), operand(y)];
    gpu.commands.launch(pipeline, operands, [count, out, experts], count);
  }
  multiply(gpu, {
    ...{ a: x, rows, indexed: true, weight, transposed: false },
    ...{ c: y, accumulate: bias !== undefined },
  });
  if (!adapter) return;
  const rank = adapter.b.shape[2]!;
  const a = { ...adapter.a, shape: [experts, rank, width] };
  multiply(gpu, {
    ...{ a: x, rows, indexed: true, weight: a, transposed: false },
    ...{ c: adapter.u, accumulate: false },
  });
  const { u, b, scale } = adapter;
  multiply(gpu, {
    a: u,
    rows,
    indexed: false,
    weight: b,
    transposed: false,
    c: y,
    accumulate: true,
    scale,
  });
}

function backward(
  gpu: Gpu,
  x: Tensor | undefined,
  rows: GroupedRows,
  { weight, dy, adapter, dWeight, dBias }: PlainGroupedGradPart,
  dx: Tensor | undefined,
): void {
  const count = dy.shape[0]!;
  if (count === 0) return;
  const [experts, , width] = weight.shape as readonly [number, number, number];
  const input = x && { tensor: x, indexed: true };
  if (dx) multiply(gpu, { a: dy, rows, indexed: false, weight, transposed: true, c: dx, accumulate: false });
  if (dWeight) outer(gpu, rows, experts, dy, input, dWeight);
  if (dBias) outer(gpu, rows, experts, dy, undefined, dBias);
  if (!adapter) return;
  const { u, b, scale, dA, dB } = adapter;
  const rank = b.shape[2]!;
  if (dB) outer(gpu, rows, experts, dy, { tensor: u, indexed: false }, dB, scale);
  if (!dA && !dx) return;
  withScratch(gpu, 4 * count * rank, (memory) => {
    const du: Tensor = { buffer: memory, byteOffset: 0, shape: [count, rank], dtype: "f32" };
    const down = { a: dy, rows, indexed: false, weight: b, transposed: true };
    multiply(gpu, { ...down, c: du, accumulate: false, scale });
    if (dA) outer(gpu, rows, experts, du, input, dA);
    const a = { ...adapter.a, shape: [experts, rank, width] };
    if (dx)
      multiply(gpu, { a: du, rows, indexed: false, weight: a, transposed: true, c: dx, accumulate: true });
  });
}

export function groupedKernels(gpu: Gpu): Pick<Kernels, "groupedLinear" | "groupedLinearBackward"> {
  return {
    groupedLinear: (x, rows, part) => forward(gpu, x, rows, plainParts([part])[0]!),
    groupedLinearBackward: (x, rows, part, dx) => backward(gpu, x, rows, plainParts([part])[0]!, dx),
  };
}
