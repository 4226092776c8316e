// Products on a card: C (+)= sum of terms, in the form and by the tile that suits them, in slices of K where C is small. Which
// tile, and whether codes are decoded within the product or before it, is product-choices.ts's to say and changes no bit: sums run
// through K in one order, and slices are counted by shape alone. Not here: operands (product-operands.ts), layers (linear.ts).

import { isQuantized, type PlainMatrix } from "../backend.ts";
import type { CudaGpu } from "./gpu.ts";
import {
  canFuse,
  denseAsItLies,
  expandWeight,
  keptScaleOf,
  operandBytes,
  roundUp,
  type Scratch,
  thresholdOf,
  withScratchOf,
} from "./product-operands.ts";
import type { Choice, Form, Result, Shape, Term, Tile, WeightProduct } from "./product-types.ts";

/** Elements of K that a kernel takes in one step. */
const depthOf = ({ precision }: CudaGpu) => (precision === "fp32" ? 16 : 32);

function stepsOf(gpu: CudaGpu, terms: readonly Term[]): number {
  return terms.reduce((sum, { k }) => sum + Math.ceil(k / depthOf(gpu)), 0);
}

/** Steps that a slice has at least, and bytes of partial sums at most. */
const leastSteps = 8;
const partialBytes = 64 * 2 ** 20;

/** Steps of one slice: as many slices as keep the card busy, by shape alone. */
function sliceSteps(gpu: CudaGpu, { m, n }: Shape, steps: number): number {
  const blocks = Math.ceil(m / 64) * Math.ceil(n / 64);
  const fitting = Math.floor(partialBytes / (4 * m * roundUp(n, 2)));
  const wanted = Math.min(
    Math.ceil((2 * gpu.card.processors) / blocks),
    Math.floor(steps / leastSteps),
    fitting,
  );
  return wanted > 1 ? Math.ceil(steps / wanted) : steps;
}

/** The same for products whose rows must not depend on how many there are: by K alone. */
export function sliceStepsOfDepth(gpu: CudaGpu, k: number): number {
  const steps = Math.ceil(k / depthOf(gpu));
  return Math.max(16, Math.ceil(steps / 16));
}

/** Tiles that each form has in bf16. */
export const tilesOf: Record<Form, readonly Tile[]> = {
  forward: ["128x256", "128x128", "64x64", "64x32"],
  input: ["128x256", "128x128", "64x64", "64x32"],
  weight: ["128x128", "64x64", "64x32", "32x128"],
};
/** Tiles of the kernels that decode codes, and of those in f32. */
export const fusedTiles: readonly Tile[] = ["128x128", "64x64"];
export const f32Tiles: readonly Tile[] = ["128x128", "64x64", "64x32"];

/** "64x32" as numbers. */
export function sidesOf(tile: Tile): readonly [m: number, n: number] {
  const [m, n] = tile.split("x").map(Number) as [number, number];
  return [m, n];
}

const formNames = { forward: "Forward", input: "Input", weight: "Weight" } as const;

/** Launches the kernel of a tile; with `partials`, sums alone. */
function launchTile(
  gpu: CudaGpu,
  { form, m, n }: Shape,
  terms: readonly Term[],
  tile: Tile,
  result: Result | undefined,
  partials: { readonly address: number; readonly steps: number; readonly slices: number } | undefined,
): void {
  const [tileM, tileN] = sidesOf(tile);
  const grid = [Math.ceil(m / tileM), Math.ceil(n / tileN), partials?.slices ?? 1] as const;
  const dense = terms.map(({ b }) => ("kind" in b ? undefined : b));
  const quantized = terms.map(({ b }) => ("kind" in b ? b : undefined))[0];
  const common = {
    a: terms.map((term) => term.a.address),
    c: result?.c ?? 0,
    bias: result?.bias,
    residual: result?.residual,
    partials: partials?.address,
    k: terms.map((term) => term.k),
    lda: terms.map((term) => term.a.pitch),
    terms: terms.length,
    m,
    n,
    ldc: result?.ldc ?? n,
    steps: partials?.steps ?? 0xffffffff,
  };
  const flags = (result?.accumulate ? 1 : 0) | (partials ? 2 : 0);
  if (gpu.precision === "fp32") {
    const across = form === "forward" ? 0 : form === "input" ? 8 : 12;
    gpu.launch(`productF32Of${tile as "64x64"}`, grid, {
      ...common,
      b: dense.map((b) => b!.address),
      ldb: dense.map((b) => b!.pitch),
      flags: flags | across,
    });
    return;
  }
  const nested = quantized?.nested;
  const kernel = `product${formNames[form]}${quantized ? "Codes" : ""}${tile}` as "productForward64x64";
  gpu.launch(kernel, grid, {
    ...common,
    b: terms.map(({ b }) => ("kind" in b ? b.codes : b.address)),
    ldb: terms.map(({ b }) => ("kind" in b ? b.shape[1] : b.pitch)),
    flags,
    codebook: quantized?.codebook,
    absmax: quantized?.absmax,
    nestedAbsmax: nested?.absmax,
    nestedCodebook: nested?.codebook,
    blockShift: quantized ? Math.log2(quantized.blockSize) : 3,
    nestedShift: nested ? Math.log2(nested.blockSize) : 0,
    nestedOffset: nested?.offset ?? 0,
  });
}

/** C (+)= the terms' products. Of quantised operands, the first term's b alone may be one. */
export function multiply(
  gpu: CudaGpu,
  shape: Shape,
  terms: readonly Term[],
  result: Result,
  tile: Tile = gpu.products.tileOf(shape, terms),
): void {
  const { form, m, n } = shape;
  if (m === 0 || n === 0) return;
  const steps = stepsOf(gpu, terms);
  const perSlice = form === "forward" ? steps : sliceSteps(gpu, shape, steps);
  const aligned = (address = 0) => address % 8 === 0;
  const direct =
    perSlice >= steps &&
    !thresholdOf(result.dropout) &&
    n % 2 === 0 &&
    result.ldc % 2 === 0 &&
    aligned(result.c) &&
    aligned(result.residual);
  if (direct) {
    launchTile(gpu, shape, terms, tile, result, undefined);
    return;
  }
  withScratchOf(gpu, (scratch) => {
    const partials = sumSlices(gpu, scratch, shape, terms, perSlice, tile);
    const { dropout } = result;
    gpu.launch("productReduce", [Math.ceil((m * n) / 1024)], {
      partials: partials.address,
      c: result.c,
      bias: result.bias,
      residual: result.residual,
      seed: dropout?.seed ?? 0,
      slices: partials.slices,
      m,
      n,
      ldc: result.ldc,
      accumulate: result.accumulate ? 1 : 0,
      stream: dropout?.stream ?? 0,
      threshold: thresholdOf(dropout),
      keptScale: keptScaleOf(dropout),
    });
  });
}

/** The sums of slices, in scratch memory, for whoever ends the product. */
export function sumSlices(
  gpu: CudaGpu,
  scratch: Scratch,
  shape: Shape,
  terms: readonly Term[],
  perSlice: number = sliceSteps(gpu, shape, stepsOf(gpu, terms)),
  tile: Tile = gpu.products.tileOf(shape, terms),
): { readonly address: number; readonly slices: number } {
  const slices = Math.max(1, Math.ceil(stepsOf(gpu, terms) / perSlice));
  const address = scratch.take(4 * slices * shape.m * roundUp(shape.n, 2));
  launchTile(gpu, shape, terms, tile, undefined, { address, steps: perSlice, slices });
  return { address, slices };
}

export function multiplyWeight(gpu: CudaGpu, product: WeightProduct): void {
  const choice = gpu.products.of(product);
  runWeightProduct(gpu, product, choice);
}

/** Rows of a weight that are expanded at a time: all, but of the largest. */
export function windowRows(gpu: CudaGpu, weight: PlainMatrix): number {
  const [rows, columns] = weight.shape as readonly [number, number];
  const fitting = Math.floor(gpu.products.windowBytes / (operandBytes(gpu) * roundUp(columns, 8)));
  return fitting >= rows ? rows : Math.max(128, Math.floor(fitting / 128) * 128);
}

/** Whether this product's codes can be decoded within it, to the same bits. */
export function fuses(gpu: CudaGpu, { form, weight }: WeightProduct): boolean {
  return (
    isQuantized(weight) &&
    canFuse(gpu, weight) &&
    (form === "forward" || windowRows(gpu, weight) >= weight.shape[0])
  );
}

/** The product as `choice` has it. */
export function runWeightProduct(gpu: CudaGpu, product: WeightProduct, choice: Choice): void {
  const { form, rows, a, weight, extra, result } = product;
  const [outputs, inputs] = weight.shape as readonly [number, number];
  const shape = { form, m: rows, n: form === "forward" ? outputs : inputs };
  const k = form === "forward" ? inputs : outputs;
  const more = extra ? [extra] : [];
  if (choice.fused && isQuantized(weight)) {
    multiply(gpu, shape, [{ a, b: weight, k }, ...more], result, choice.tile);
    return;
  }
  const lying = denseAsItLies(gpu, weight);
  if (lying) {
    multiply(gpu, shape, [{ a, b: lying, k }, ...more], result, choice.tile);
    return;
  }
  const window = windowRows(gpu, weight);
  const bytes = operandBytes(gpu);
  for (let first = 0; first < outputs; first += window) {
    const count = Math.min(window, outputs - first);
    withScratchOf(gpu, (scratch) => {
      const b = expandWeight(gpu, scratch, weight, first, count);
      if (form === "input") {
        const part = { address: a.address + bytes * first, pitch: a.pitch };
        const terms = [{ a: part, b, k: count }, ...(first === 0 ? more : [])];
        multiply(gpu, shape, terms, { ...result, accumulate: result.accumulate || first > 0 }, choice.tile);
        return;
      }
      const columns = (address: number | undefined) => (address ? address + 4 * first : address);
      const terms: Term[] = [{ a, b, k }];
      if (extra && !("kind" in extra.b)) {
        const { address, pitch } = extra.b;
        terms.push({ ...extra, b: { address: address + bytes * pitch * first, pitch } });
      }
      const { c, ldc, bias, residual, accumulate } = result;
      const part = { ldc, accumulate, c: c + 4 * first, bias: columns(bias), residual: columns(residual) };
      multiply(gpu, { ...shape, n: count }, terms, part, choice.tile);
    });
  }
}
