// Matrix products C = epilogue(A B): which kernel and tile size, which form of each operand, split along K where the product
// is too small to fill a GPU, and windows where an operand is larger than a binding. linear.ts says what is multiplied.

import { dtypeBytes } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { BugError } from "../../util/errors.ts";
import { type Dropout, isQuantized, type Matrix, type QuantizedMatrix } from "../backend.ts";
import { f32, type Operand } from "./commands.ts";
import { philoxRounds } from "./elementwise.ts";
import { type Gpu, windows, withScratch } from "./gpu.ts";
import type { KernelSource } from "./kernels.ts";
import type { Variant } from "./pipelines.ts";
import { chooseTile, type Tile } from "./tiles.ts";

export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** f32 [m, k], or [k, m] when `aTransposed`. */
  readonly a: Tensor;
  readonly aTransposed?: boolean;
  /** [n, k], or [k, n] when `bTransposed`. */
  readonly b: Matrix;
  readonly bTransposed?: boolean;
  /** f32 [m, n]. */
  readonly c: Tensor;
  readonly accumulate?: boolean;
  readonly scale?: number;
  readonly bias?: Tensor;
  readonly residual?: Tensor;
  /** Dropout's mask, on A's elements (1), B's (2) or the product's (3). */
  readonly mask?: { readonly on: 1 | 2 | 3; readonly dropout: Dropout };
}

/** Part of a product that binds whole operands. */
interface Window {
  readonly m0: number;
  readonly n0: number;
  readonly k0: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** Products of at most this many rows go to the matrix-vector kernel. */
const vectorRows = 8;

export function multiply(gpu: Gpu, p: Product): void {
  if (p.m === 0 || p.n === 0) return;
  if (p.k === 0) throw new BugError("a product over nothing");
  for (const window of windowsOf(gpu, p)) multiplyWindow(gpu, p, window);
}

/** Windows in which every operand fits a binding: rows of A, B and C, whichever dimension those are. */
function* windowsOf(gpu: Gpu, p: Product): Generator<Window> {
  const bRowBytes = isQuantized(p.b) ? p.b.shape[1] / 2 : p.b.shape[1]! * dtypeBytes[p.b.dtype];
  const aRowBytes = 4 * p.a.shape[1]!;
  const mBytes = p.aTransposed ? 4 * p.n : Math.max(aRowBytes, 4 * p.n);
  const nBytes = p.bTransposed ? 0 : bRowBytes;
  const kBytes = Math.max(p.aTransposed ? aRowBytes : 0, p.bTransposed ? bRowBytes : 0);
  for (const { start: m0, length: m } of windows(gpu, p.m, mBytes, 16)) {
    for (const { start: n0, length: n } of windows(gpu, p.n, nBytes, 16)) {
      for (const { start: k0, length: k } of windows(gpu, p.k, kBytes, 16)) yield { m0, n0, k0, m, n, k };
    }
  }
}

/** One form of an operand: the shader's file, what to bind, and whether rows are read four elements at a time. */
interface Form {
  readonly files: readonly KernelSource[];
  readonly operands: readonly Operand[];
  readonly constants?: Readonly<Record<string, number>>;
  readonly name: string;
  /** Exact as f16, or by the tier's own choice rounded to it. */
  readonly half: boolean;
}

/** Elements [row0.., column0..] of a row-major tensor as an operand that `unit` bytes are read at a time of. */
function part(
  tensor: Tensor,
  row0: number,
  rows: number,
  column0: number,
  columns: number,
  unit: number,
): Operand {
  const size = dtypeBytes[tensor.dtype];
  const row = tensor.shape[1]!;
  return {
    buffer: tensor.buffer,
    byteOffset: tensor.byteOffset + (row0 * row + column0) * size,
    sizeBytes: ((rows - 1) * row + columns) * size,
    unit,
  };
}

/** Whether rows of a dense operand can be read four elements at a time. */
function alignedRows(tensor: Tensor, column0: number, columns: number): boolean {
  const size = dtypeBytes[tensor.dtype];
  return (
    tensor.shape[1]! % 4 === 0 &&
    column0 % 4 === 0 &&
    columns % 4 === 0 &&
    tensor.byteOffset % (4 * size) === 0
  );
}

function denseForm(
  tensor: Tensor,
  which: "a" | "b",
  row0: number,
  rows: number,
  column0: number,
  columns: number,
): Form {
  const fast = alignedRows(tensor, column0, columns);
  const bytes = dtypeBytes[tensor.dtype];
  const operands = [part(tensor, row0, rows, column0, columns, fast ? 4 * bytes : bytes)];
  const vec = fast ? "-vec4" : "";
  if (which === "a") {
    return { files: [`operand-a${vec}`], operands, name: `a${vec}`, half: false };
  }
  if (tensor.dtype === "f32") {
    return { files: [`operand-b-f32${vec}`], operands, name: `f32${vec}`, half: false };
  }
  if (tensor.dtype !== "f16" && tensor.dtype !== "bf16") throw new BugError(`a product with ${tensor.dtype}`);
  return {
    files: [`operand-b-half${vec}`],
    operands,
    constants: { HALF: tensor.dtype === "bf16" ? 1 : 2 },
    name: `${tensor.dtype}${vec}`,
    half: tensor.dtype === "f16",
  };
}

function quantizedForm(b: QuantizedMatrix, row0: number, rows: number): Form {
  const columns = b.shape[1];
  const first = row0 * columns;
  const bytes = Math.ceil((rows * columns) / 2);
  const codes = {
    buffer: b.codes.buffer,
    byteOffset: b.codes.byteOffset + first / 2,
    sizeBytes: bytes,
    unit: 4,
  };
  const whole = (tensor: Tensor, unit: number): Operand => ({
    buffer: tensor.buffer,
    byteOffset: tensor.byteOffset,
    sizeBytes: tensor.shape[0]! * dtypeBytes[tensor.dtype],
    unit,
  });
  if (!b.nested) {
    return {
      files: ["scales-plain", "operand-b-quantized"],
      operands: [codes, whole(b.absmax, 4), whole(b.codebook, 4)],
      name: "quantized",
      half: true,
    };
  }
  return {
    files: ["scales-nested", "operand-b-quantized"],
    operands: [
      codes,
      whole(b.absmax, 1),
      whole(b.nested.absmax, 4),
      whole(b.codebook, 4),
      whole(b.nested.codebook, 4),
    ],
    name: "quantized-nested",
    half: true,
  };
}

function multiplyWindow(gpu: Gpu, p: Product, w: Window): void {
  const a = p.aTransposed
    ? denseForm(p.a, "a", w.k0, w.k, w.m0, w.m)
    : denseForm(p.a, "a", w.m0, w.m, w.k0, w.k);
  const [bRow0, bRows] = p.bTransposed ? [w.k0, w.k] : [w.n0, w.n];
  const [bColumn0, bColumns] = p.bTransposed ? [w.n0, w.n] : [w.k0, w.k];
  const b = isQuantized(p.b)
    ? quantizedForm(p.b, bRow0, bRows)
    : denseForm(p.b, "b", bRow0, bRows, bColumn0, bColumns);
  const quads = [p.c, p.bias, p.residual].every((t) => !t || t.byteOffset % 16 === 0) && p.n % 4 === 0;
  const unit = quads ? 16 : 4;
  const c = part(p.c, w.m0, w.m, w.n0, w.n, unit);
  const { nothing } = gpu.commands;
  const bias: Operand = p.bias
    ? { buffer: p.bias.buffer, byteOffset: p.bias.byteOffset + 4 * w.n0, sizeBytes: 4 * w.n, unit }
    : nothing;
  const residual = p.residual ? part(p.residual, w.m0, w.m, w.n0, w.n, unit) : nothing;
  // Later windows along K add to what the first has made, and only the first brings bias and residual.
  const accumulate = p.accumulate || w.k0 > 0;
  const flags = (p.bias && w.k0 === 0 ? 1 : 0) | (p.residual && w.k0 === 0 ? 2 : 0) | (accumulate ? 4 : 0);
  const shape = { m: w.m, n: w.n, k: w.k };
  const params = paramsOf(p, w, isQuantized(p.b) ? p.b : undefined);
  const maskOn = p.mask?.on ?? 0;

  if (w.m <= vectorRows && !p.aTransposed && !p.bTransposed && maskOn !== 2) {
    const rows = w.m <= 1 ? 1 : w.m <= 2 ? 2 : w.m <= 4 ? 4 : 8;
    const label = `gemv ${rows} ${a.name} ${b.name} ${maskOn} ${unit}`;
    const pipeline = gpu.pipelines.get(label, () =>
      variantOf(gpu, "gemv", a, b, maskOn, quads, { ROWS: rows }),
    );
    const operands = [...a.operands, c, bias, residual, ...b.operands];
    gpu.commands.launch(pipeline, operands, params(shape, flags, p.scale ?? 1, w.k, 0), Math.ceil(w.n / 4));
    return;
  }

  const tile = chooseTile(gpu, shape, b.half);
  const splits = splitsOf(gpu, shape, tile);
  const label = [
    "gemm",
    ...Object.values(tile),
    splits > 1 ? "split" : "whole",
    p.aTransposed ? 1 : 0,
    p.bTransposed ? 1 : 0,
    a.name,
    b.name,
    splits > 1 && maskOn === 3 ? 0 : maskOn,
    unit,
  ].join(" ");
  const pipeline = gpu.pipelines.get(label, () =>
    variantOf(gpu, "gemm", a, b, splits > 1 && maskOn === 3 ? 0 : maskOn, quads, {
      ...tile,
      SPLIT: splits > 1 ? 1 : 0,
      A_MODE: p.aTransposed ? 1 : 0,
      B_MODE: p.bTransposed ? 1 : 0,
    }),
  );
  const grid = [Math.ceil(w.m / tile.BM), Math.ceil(w.n / tile.BN)] as const;
  if (splits <= 1) {
    const operands = [...a.operands, c, bias, residual, ...b.operands];
    gpu.commands.launch(pipeline, operands, params(shape, flags, p.scale ?? 1, w.k, 0), [...grid, 1]);
    return;
  }
  const perSplit = Math.ceil(w.k / splits / tile.BK) * tile.BK;
  const slices = Math.ceil(w.k / perSplit);
  withScratch(gpu, 4 * slices * w.m * w.n, (memory) => {
    const partials = { buffer: memory, byteOffset: 0, sizeBytes: 4 * slices * w.m * w.n, unit };
    const operands = [...a.operands, partials, nothing, nothing, ...b.operands];
    gpu.commands.launch(pipeline, operands, params(shape, 0, 1, perSplit, w.m * w.n), [...grid, slices]);
    const finish = gpu.pipelines.get(`reduce-splits ${maskOn === 3 ? 3 : 0} ${unit}`, () => ({
      files: ["product-params", ...maskFiles(maskOn === 3 ? 3 : 0), epilogueFile(quads), "reduce-splits"],
      constants: { DROPOUT: maskOn === 3 ? 3 : 0 },
      offsetWords: offsetWords,
    }));
    gpu.commands.launch(
      finish,
      [{ ...partials, unit: 4 }, c, bias, residual],
      params({ ...shape, k: slices }, flags, p.scale ?? 1, 0, w.m * w.n),
      Math.ceil((w.m * Math.ceil(w.n / 4)) / 64),
    );
  });
}

/** Words of offsets at the start of the products' parameters: a, c, bias, residual, and three of b. */
const offsetWords = 7;

function epilogueFile(quads: boolean): KernelSource {
  return quads ? "epilogue-vec4" : "epilogue";
}

function maskFiles(maskOn: number): KernelSource[] {
  return maskOn > 0 ? ["multiply-high", "philox", "dropout-mask"] : ["no-dropout"];
}

function variantOf(
  gpu: Gpu,
  kernel: "gemm" | "gemv",
  a: Form,
  b: Form,
  maskOn: number,
  quads: boolean,
  constants: Record<string, number>,
): Variant {
  const half = kernel === "gemm" && gpu.tier !== "f32" && b.half;
  return {
    files: ["product-params", ...maskFiles(maskOn), ...a.files, ...b.files, epilogueFile(quads), kernel],
    constants: { ...constants, ...b.constants, DROPOUT: maskOn },
    aliases: kernel === "gemm" ? { TileB: half ? "f16" : "f32" } : {},
    extensions: half ? ["f16"] : [],
    offsetWords,
  };
}

/** The parameters after the offsets, in the order of product-params.wgsl. */
function paramsOf(p: Product, w: Window, quantized: QuantizedMatrix | undefined) {
  const dropout = p.mask?.dropout;
  const on = p.mask?.on ?? 0;
  const [row0, column0] = on === 1 ? [w.m0, w.k0] : on === 2 ? [w.k0, w.n0] : [w.m0, w.n0];
  const maskStride = on === 1 ? p.k : p.n;
  const bRow0 = p.bTransposed ? w.k0 : w.n0;
  return (
    shape: { m: number; n: number; k: number },
    flags: number,
    scale: number,
    perSplit: number,
    splitStride: number,
  ): number[] => [
    shape.m,
    shape.n,
    shape.k,
    p.a.shape[1]!,
    p.b.shape[1]!,
    p.n,
    perSplit,
    splitStride,
    flags,
    f32(scale),
    quantized?.blockSize ?? 0,
    quantized ? bRow0 * quantized.shape[1] : 0,
    quantized?.nested?.blockSize ?? 1,
    f32(quantized?.nested?.offset ?? 0),
    (dropout?.seed ?? 0) >>> 0,
    Math.floor((dropout?.seed ?? 0) / 2 ** 32) >>> 0,
    (dropout?.stream ?? 0) >>> 0,
    dropout ? Math.floor(dropout.p * 4294967296) : 0,
    f32(dropout ? 1 / (1 - dropout.p) : 1),
    maskStride,
    (row0 * maskStride + column0) >>> 0,
    philoxRounds,
  ];
}

/** Workgroups that a product should have at least, lest most of a GPU stands idle. */
const busyGroups = 128;
/** K elements that a slice has at least, and bytes of partial products at most. */
const sliceLength = 256;
const partialBytes = 32 * 2 ** 20;

/** Slices of K: as many as keep the GPU busy. Depends on sizes alone, so the same product sums in the same order. */
function splitsOf(gpu: Gpu, { m, n, k }: { m: number; n: number; k: number }, tile: Tile): number {
  const groups = Math.ceil(m / tile.BM) * Math.ceil(n / tile.BN);
  const wanted = Math.min(Math.ceil(busyGroups / groups), Math.floor(k / sliceLength));
  const fitting = Math.floor(Math.min(partialBytes, gpu.commands.bindingLimit - 256) / (4 * m * n));
  return Math.max(1, Math.min(wanted, fitting));
}
