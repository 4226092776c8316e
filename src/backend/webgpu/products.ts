// Matrix products C = epilogue(A B): which of the kernels, with its operands and parameters, in windows where an
// operand is larger than a binding. tiles.ts sizes tiles, product-operands.ts reads operands; linear.ts says what is
// multiplied.

import { dtypeBytes } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { BugError, invariant } from "../../util/errors.ts";
import { type Dropout, isQuantized, type PlainMatrix } from "../backend.ts";
import { f32, type Operand } from "./commands.ts";
import { philoxRounds } from "./elementwise.ts";
import { type Gpu, windows, withScratch } from "./gpu.ts";
import { matrixConstants, type PackedRows, withPackedRows } from "./packed-rows.ts";
import type { Variant } from "./pipelines.ts";
import { denseForm, type Form, formOfB, matrixFormOfB, part, vectorRows } from "./product-operands.ts";
import type { ShaderSource } from "./shaders.ts";
import { chooseMatrixTile, chooseTile, laneTile, splitsOf } from "./tiles.ts";

export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** f32 [m, k], or [k, m] when `aTransposed`. */
  readonly a: Tensor;
  readonly aTransposed?: boolean;
  /** [n, k], or [k, n] when `bTransposed`. */
  readonly b: PlainMatrix;
  readonly bTransposed?: boolean;
  /** f32 [m, n]. */
  readonly c: Tensor;
  /** Elements from a row of C to the next; absent: n. */
  readonly ldc?: number;
  readonly accumulate?: boolean;
  readonly scale?: number;
  readonly bias?: Tensor;
  readonly residual?: Tensor;
  /** Dropout's mask, on A's elements (1), B's (2) or the product's (3). */
  readonly mask?: { readonly on: 1 | 2 | 3; readonly dropout: Dropout };
  /** A, packed before, for products on subgroup matrices. Like an adapter, only for products that isWhole(). */
  readonly packed?: PackedRows;
  readonly adapter?: AdapterStep;
}

/** Further elements along K: the product gains scale u F. At most one of bias and residual stands beside it. */
export interface AdapterStep {
  /** f32, row t of it `ldu` elements after row t - 1. */
  readonly u: Operand;
  readonly ldu: number;
  readonly rank: number;
  /** f32 [n, rank], or [rank, n] when B is transposed. */
  readonly factor: Tensor;
  readonly scale: number;
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

export function multiply(gpu: Gpu, p: Product): void {
  if (p.m === 0 || p.n === 0) return;
  if (p.k === 0) throw new BugError("a product over nothing");
  for (const window of windowsOf(gpu, p)) multiplyWindow(gpu, p, window);
}

/** Whether every operand of a product fits a binding. */
export function isWhole(gpu: Gpu, p: Product): boolean {
  const [first] = windowsOf(gpu, p);
  const room = gpu.commands.bindingLimit - 256;
  const { adapter } = p;
  const fits = !adapter || 4 * adapter.rank * Math.max(p.m, p.n) <= room;
  return fits && first?.m === p.m && first.n === p.n && first.k === p.k;
}

/** Whether a product that isWhole() is made on subgroup matrices, and so reads packed rows. */
export function readsPacked(gpu: Gpu, p: Product): boolean {
  return !p.mask && chooseMatrixTile(gpu, p) !== undefined;
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

function multiplyWindow(gpu: Gpu, p: Product, w: Window): void {
  const [bRow0, bRows] = p.bTransposed ? [w.k0, w.k] : [w.n0, w.n];
  const [bColumn0, bColumns] = p.bTransposed ? [w.n0, w.n] : [w.k0, w.k];
  const [aRow0, aRows] = p.aTransposed ? [w.k0, w.k] : [w.m0, w.m];
  const [aColumn0, aColumns] = p.aTransposed ? [w.m0, w.m] : [w.k0, w.k];
  const sized = { ...w, b: p.b, bTransposed: p.bTransposed };
  const matrixTile = p.mask ? undefined : chooseMatrixTile(gpu, sized);
  if (matrixTile) {
    // Products over tokens sum over A's rows, so a row's own scale could not be taken out again.
    const common =
      p.aTransposed && !isQuantized(p.b) ? part(p.b, bRow0, bRows, bColumn0, bColumns, 4) : undefined;
    const source = part(p.a, aRow0, aRows, aColumn0, aColumns, 4);
    const shape = { rows: aRows, columns: aColumns, pitch: p.a.shape[1]! };
    const b = matrixFormOfB(p.b, bRow0, bRows, bColumn0, bColumns);
    const constants = matrixConstants(gpu, matrixTile);
    const run = (a: PackedRows) =>
      runTiled(gpu, p, w, { kernel: "gemm-matrix", a, b, tile: matrixTile, constants });
    if (p.packed) run(p.packed);
    else withPackedRows(gpu, source, shape, common, run);
    return;
  }
  const b = formOfB(p.b, bRow0, bRows, bColumn0, bColumns);
  const a = denseForm(p.a, "a", aRow0, aRows, aColumn0, aColumns);
  if (w.m <= vectorRows && !p.aTransposed && !p.bTransposed && p.mask?.on !== 2 && !p.adapter) {
    runVector(gpu, p, w, a, b);
    return;
  }
  if (gpu.lanes) {
    const constants = laneConstants(p, gpu.lanes);
    runTiled(gpu, p, w, { kernel: "gemm-lanes", a, b, tile: laneTile(gpu.lanes, w.n), constants });
    return;
  }
  const { BM, BN, BK, TM, TN } = chooseTile(gpu, sized, b.half);
  runTiled(gpu, p, w, { kernel: "gemm", a, b, tile: { BM, BN, BK }, constants: { TM, TN } });
}

/** C, the addends and the adapter of a window, C's rows four elements at a time where that is possible; the epilogue's flags. */
function resultOf(gpu: Gpu, p: Product, w: Window) {
  const quads =
    [p.c, p.bias, p.residual].every((t) => !t || t.byteOffset % 16 === 0) &&
    p.n % 4 === 0 &&
    (p.ldc ?? 0) % 4 === 0;
  const unit = quads ? 16 : 4;
  const { nothing } = gpu.commands;
  const { bias, residual, adapter } = p;
  invariant(!(bias && residual && adapter), "a product with a bias, a residual and an adapter");
  const biasPart: Operand | undefined = bias && {
    ...{ buffer: bias.buffer, byteOffset: bias.byteOffset + 4 * w.n0, sizeBytes: 4 * w.n, unit },
  };
  const residualPart = residual && part(residual, w.m0, w.m, w.n0, w.n, unit);
  // Later windows along K add to what the first has made, and only the first brings addends.
  const accumulate = p.accumulate || w.k0 > 0;
  const addends = w.k0 > 0 ? 0 : (bias ? 1 : 0) | (residual ? (bias ? 8 : 2) : 0);
  const { factor } = adapter ?? {};
  const adapterParts = factor && [adapter!.u, part(factor, 0, factor.shape[0]!, 0, factor.shape[1]!, 4)];
  return {
    quads,
    c: { ...partOfC(p, w), unit },
    addend: biasPart ?? residualPart ?? nothing,
    second: adapterParts ?? [(bias && residualPart) || nothing, nothing],
    flags: addends | (accumulate ? 4 : 0),
  };
}

function partOfC({ c, n, ldc = n }: Product, w: Window): Operand {
  const byteOffset = c.byteOffset + 4 * (w.m0 * ldc + w.n0);
  return { buffer: c.buffer, byteOffset, sizeBytes: 4 * ((w.m - 1) * ldc + w.n) };
}

/** What a kernel's epilogue is made of. */
function epilogueOf(
  quads: boolean,
  adapter: boolean,
  flags: "read" | "known" = "read",
): Pick<Variant, "files" | "aliases"> {
  return {
    files: [`flags-${flags}`, adapter ? "adapter" : "no-adapter", quads ? "epilogue-vec4" : "epilogue"],
    aliases: { Addend: quads ? "vec4f" : "f32" },
  };
}

function runVector(gpu: Gpu, p: Product, w: Window, a: Form, b: Form): void {
  // Of lanes' time rows take little, so that one shader does for all.
  const rows = gpu.lanes ? vectorRows : w.m <= 1 ? 1 : w.m <= 2 ? 2 : w.m <= 4 ? 4 : vectorRows;
  const { quads, c, addend, second, flags } = resultOf(gpu, p, w);
  const maskOn = p.mask?.on ?? 0;
  const kernel = gpu.lanes ? "gemv-lanes" : "gemv";
  const known = gpu.lanes ? flags : 0;
  const pipeline = gpu.pipelines.get([kernel, rows, a.name, b.name, maskOn, quads, known], () => {
    const epilogue = epilogueOf(quads, false, gpu.lanes ? "known" : "read");
    const constants = { ...b.constants, ROWS: rows, DROPOUT: maskOn };
    return {
      ...epilogue,
      files: ["product-params", ...maskFiles(maskOn), ...a.files, ...b.files, ...epilogue.files, kernel],
      constants: gpu.lanes ? { ...constants, ...laneConstants(p, gpu.lanes), FLAGS: flags } : constants,
      extensions: extensionsOf[kernel],
      offsetWords,
    };
  });
  const params = paramsOf(p, w, { flags, lda: p.a.shape[1]! });
  const operands = [...a.operands, c, addend, ...second, ...b.operands];
  gpu.commands.launch(pipeline, operands, params, Math.ceil(w.n / (4 * (gpu.lanes ?? 1))));
}

/** A tiled kernel with its operands in the forms it reads. */
interface TiledKernel {
  readonly kernel: "gemm" | "gemm-matrix" | "gemm-lanes";
  readonly a: Form & { readonly lda?: number; readonly firstRow?: number };
  readonly b: Form;
  readonly tile: { readonly BM: number; readonly BN: number; readonly BK: number };
  readonly constants: Readonly<Record<string, number>>;
}

/** Constants of the kernels of a subgroup: its lanes, and whether B is read through tables. */
function laneConstants({ b }: Product, lanes: number): Record<string, number> {
  return { LANES: lanes, TABLES: isQuantized(b) ? 1 : 0 };
}

const extensionsOf: Readonly<Record<string, readonly string[]>> = {
  "gemm-matrix": ["f16", "subgroups", "chromium_experimental_subgroup_matrix"],
  "gemm-lanes": ["subgroups"],
  "gemv-lanes": ["subgroups"],
};

function runTiled(gpu: Gpu, p: Product, w: Window, { kernel, a, b, tile, constants }: TiledKernel): void {
  const result = resultOf(gpu, p, w);
  const { quads, c, addend, second } = result;
  const maskOn = p.mask?.on ?? 0;
  const splits = splitsOf(gpu, w, tile);
  // A mask on the product waits until the slices are added.
  const mask = splits > 1 && maskOn === 3 ? 0 : maskOn;
  const specialised = {
    ...tile,
    ...constants,
    SPLIT: splits > 1 ? 1 : 0,
    A_MODE: p.aTransposed ? 1 : 0,
    B_MODE: p.bTransposed ? 1 : 0,
    DROPOUT: mask,
    ADAPTER: p.adapter ? 1 : 0,
    ...(kernel === "gemm-lanes" ? { FLAGS: splits > 1 ? 0 : result.flags } : {}),
  };
  const label = [kernel, ...Object.values(specialised), a.name, b.name, quads];
  const pipeline = gpu.pipelines.get(label, (): Variant => {
    const halfTile = kernel === "gemm" && gpu.tier !== "f32" && b.half;
    const known = kernel === "gemm-lanes" ? "known" : "read";
    const { files, aliases } = epilogueOf(quads, p.adapter !== undefined, known);
    return {
      files: ["product-params", ...maskFiles(mask), ...a.files, ...b.files, ...files, kernel],
      constants: { ...specialised, ...b.constants },
      aliases: { ...aliases, ...(kernel === "gemm" ? { TileB: halfTile ? "f16" : "f32" } : {}) },
      extensions: extensionsOf[kernel] ?? (halfTile ? ["f16"] : []),
      offsetWords,
    };
  });
  const common = { lda: a.lda ?? p.a.shape[1]!, firstRow: a.firstRow };
  const grid = [Math.ceil(w.m / tile.BM), Math.ceil(w.n / tile.BN)] as const;
  if (splits <= 1) {
    const operands = [...a.operands, c, addend, ...second, ...b.operands];
    gpu.commands.launch(pipeline, operands, paramsOf(p, w, { ...common, flags: result.flags }), [...grid, 1]);
    return;
  }
  const perSplit = Math.ceil(w.k / splits / tile.BK) * tile.BK;
  const slices = Math.ceil(w.k / perSplit);
  const splitStride = w.m * w.n;
  withScratch(gpu, 4 * slices * splitStride, (memory) => {
    const partials = { buffer: memory, byteOffset: 0, sizeBytes: 4 * slices * splitStride, unit: c.unit };
    const { nothing } = gpu.commands;
    const own = p.adapter ? second : [nothing, nothing];
    const operands = [...a.operands, partials, nothing, ...own, ...b.operands];
    const slice = { ...common, flags: 0, scale: 1, perSplit, splitStride };
    gpu.commands.launch(pipeline, operands, paramsOf(p, w, slice), [...grid, slices]);
    const late = maskOn === 3 ? 3 : 0;
    const finish = gpu.pipelines.get(`reduce-splits ${late} ${quads}`, () => {
      const epilogue = epilogueOf(quads, false);
      return {
        ...epilogue,
        files: ["product-params", ...maskFiles(late), ...epilogue.files, "reduce-splits"],
        constants: { DROPOUT: late },
        offsetWords,
      };
    });
    const params = paramsOf(p, { ...w, k: slices }, { lda: 0, flags: result.flags, splitStride });
    const groups = Math.ceil((w.m * Math.ceil(w.n / 4)) / 64);
    const lateSecond = p.adapter ? [nothing, nothing] : second;
    gpu.commands.launch(finish, [{ ...partials, unit: 4 }, c, addend, ...lateSecond], params, groups);
  });
}

/** Words of offsets at the start of the products' parameters: a, c, two addends (or one and u), a factor, and three of b. */
const offsetWords = 8;

function maskFiles(maskOn: number): ShaderSource[] {
  return maskOn > 0 ? ["multiply-high", "philox", "dropout-mask"] : ["no-dropout"];
}

/** What the parameters say beyond the product itself. */
interface Run {
  readonly lda: number;
  readonly flags: number;
  readonly scale?: number;
  readonly perSplit?: number;
  readonly splitStride?: number;
  readonly firstRow?: number;
}

/** The parameters after the offsets, in the order of product-params.wgsl. */
function paramsOf(p: Product, w: Window, run: Run): number[] {
  const dropout = p.mask?.dropout;
  const on = p.mask?.on ?? 0;
  const [row0, column0] = on === 1 ? [w.m0, w.k0] : on === 2 ? [w.k0, w.n0] : [w.m0, w.n0];
  const maskStride = on === 1 ? p.k : p.n;
  const bRow0 = p.bTransposed ? w.k0 : w.n0;
  const quantized = isQuantized(p.b) ? p.b : undefined;
  return [
    w.m,
    w.n,
    w.k,
    run.lda,
    p.b.shape[1]!,
    p.ldc ?? p.n,
    run.perSplit ?? w.k,
    run.splitStride ?? 0,
    run.flags,
    f32(run.scale ?? p.scale ?? 1),
    quantized ? bRow0 * quantized.shape[1] : 0,
    f32(quantized?.nested?.offset ?? 0),
    (dropout?.seed ?? 0) >>> 0,
    Math.floor((dropout?.seed ?? 0) / 2 ** 32) >>> 0,
    (dropout?.stream ?? 0) >>> 0,
    dropout ? Math.floor(dropout.p * 4294967296) : 0,
    f32(dropout ? 1 / (1 - dropout.p) : 1),
    maskStride,
    (row0 * maskStride + column0) >>> 0,
    philoxRounds,
    run.firstRow ?? 0,
    p.adapter?.rank ?? 0,
    p.adapter?.ldu ?? 0,
    f32(p.adapter?.scale ?? 0),
  ];
}
