// Tile sizes of the matrix products by the product's shape and the device's limits, and in how many slices along K a product
// too small to fill a GPU is made.

import { isQuantized, type PlainMatrix } from "../backend.ts";
import type { Gpu } from "./gpu.ts";

/** A workgroup makes BM x BN in steps of BK along K; an invocation TM x TN. All but BK are multiples of 4. */
export interface Tile {
  readonly BM: number;
  readonly BN: number;
  readonly BK: number;
  readonly TM: number;
  readonly TN: number;
}

/**
 * Tiles of products with more than 32 rows and columns, the largest first; which is fastest depends on the device and on the
 * product's size, and is measured once (tuning.ts). Without a measurement: the first that keeps `busyTiles` workgroups.
 */
const wideTiles: readonly Tile[] = [
  { BM: 128, BN: 128, BK: 16, TM: 8, TN: 8 },
  { BM: 128, BN: 64, BK: 16, TM: 8, TN: 8 },
  { BM: 64, BN: 64, BK: 16, TM: 8, TN: 4 },
  { BM: 64, BN: 64, BK: 16, TM: 4, TN: 4 },
  { BM: 32, BN: 64, BK: 16, TM: 4, TN: 4 },
];
const untunedWide = [0, 2] as const;
const busyTiles = 64;

/** Tiles of products with few rows or columns: the first whose sizes the product reaches. */
const skinnyTiles: readonly (Tile & { readonly leastM: number; readonly leastN: number })[] = [
  { BM: 64, BN: 32, BK: 16, TM: 4, TN: 4, leastM: 33, leastN: 17 },
  { BM: 32, BN: 64, BK: 16, TM: 4, TN: 4, leastM: 17, leastN: 33 },
  { BM: 64, BN: 16, BK: 16, TM: 4, TN: 4, leastM: 17, leastN: 0 },
  { BM: 16, BN: 64, BK: 16, TM: 4, TN: 4, leastM: 0, leastN: 0 },
];

/** How many tiles there are to choose from: those of gemm-matrix.wgsl, then gemm.wgsl's, a place each. */
export function tileCount(): number {
  return matrixTiles.length + wideTiles.length;
}

/** What of a product decides its tile. */
export interface TiledProduct {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly b: PlainMatrix;
  readonly bTransposed?: boolean;
}

/** How B is stored, as kinds of products name it. */
export function storedForm(b: PlainMatrix): string {
  return isQuantized(b) ? "4-bit" : b.dtype;
}

function measuredPlace(gpu: Gpu, { m, n, k, b, bTransposed }: TiledProduct): number | undefined {
  return gpu.tiles.of(storedForm(b), bTransposed === true, m, n, k);
}

/** Bytes of workgroup memory that gemm.wgsl uses with a tile. */
function tileBytes(tile: Tile, halfB: boolean): number {
  return tile.BK * 16 * (tile.BM / 4 + 1) + tile.BK * (halfB ? 8 : 16) * (tile.BN / 4 + 1) + tableBytes;
}

/** Whether the device has the memory and the lanes for a tile. */
export function tileFits(gpu: Gpu, tile: Tile, halfB: boolean): boolean {
  const lanes = (tile.BM / tile.TM) * (tile.BN / tile.TN);
  return (
    tileBytes(tile, halfB && gpu.tier !== "f32") <= gpu.limits.maxComputeWorkgroupStorageSize &&
    lanes <= gpu.limits.maxComputeInvocationsPerWorkgroup
  );
}

function countTiles(m: number, n: number, { BM, BN }: { readonly BM: number; readonly BN: number }): number {
  return Math.ceil(m / BM) * Math.ceil(n / BN);
}

/** The tile for a product; `halfB`: B's tile is f16 where the tier has it. */
export function chooseTile(gpu: Gpu, product: TiledProduct, halfB: boolean): Tile {
  const { m, n } = product;
  if (m > 32 && n > 32) {
    const measured = measuredPlace(gpu, product);
    const tuned = measured === undefined ? undefined : wideTiles[measured - matrixTiles.length];
    if (tuned && tileFits(gpu, tuned, halfB)) return tuned;
    const tile = untunedWide
      .map((place) => wideTiles[place]!)
      .find(
        (t, i) =>
          tileFits(gpu, t, halfB) && (i === untunedWide.length - 1 || countTiles(m, n, t) >= busyTiles),
      );
    if (tile) return tile;
  }
  const { leastM, leastN, ...tile } = skinnyTiles.find((t) => m >= t.leastM && n >= t.leastN)!;
  return tile;
}

/** The tile of gemm-lanes.wgsl: four rows a lane; narrower products waste no columns. */
export function laneTile(
  lanes: number,
  n: number,
): { readonly BM: number; readonly BN: number; readonly BK: number } {
  const columns = n <= 8 ? 8 : 16;
  return { BM: 4 * lanes, BN: Math.max(lanes, columns), BK: 4 };
}

/** Workgroups that a product should have at least, lest most of a GPU, or a core of a CPU, stands idle. */
const busyGroups = 128;
const busyLaneGroups = 16;
/** K elements that a slice has at least, and bytes of partial products at most. */
const sliceLength = 256;
const partialBytes = 32 * 2 ** 20;

/** Slices of K: as many as keep the GPU busy. Depends on sizes alone, so the same product sums in the same order. */
export function splitsOf(
  gpu: Gpu,
  { m, n, k }: { readonly m: number; readonly n: number; readonly k: number },
  tile: { readonly BM: number; readonly BN: number },
): number {
  const groups = countTiles(m, n, tile);
  const wanted = Math.min(
    Math.ceil((gpu.lanes ? busyLaneGroups : busyGroups) / groups),
    Math.floor(k / sliceLength),
  );
  const fitting = Math.floor(Math.min(partialBytes, gpu.commands.bindingLimit - 256) / (4 * m * n));
  return Math.max(1, Math.min(wanted, fitting));
}

/** Tile of gemm-matrix.wgsl: a subgroup makes WM x WN of BM x BN. */
export interface MatrixTile {
  readonly BM: number;
  readonly BN: number;
  readonly BK: number;
  readonly WM: number;
  readonly WN: number;
  /** Tiles in workgroup memory: 2 spare a barrier a step where there is room. */
  readonly BUFFERS: number;
}

/** In order of preference without a measurement, while `busyTiles` workgroups are kept. */
const matrixTiles: readonly MatrixTile[] = [
  { BM: 128, BN: 128, BK: 32, WM: 64, WN: 32, BUFFERS: 2 },
  { BM: 128, BN: 128, BK: 32, WM: 64, WN: 32, BUFFERS: 1 },
  { BM: 128, BN: 64, BK: 32, WM: 64, WN: 32, BUFFERS: 2 },
  { BM: 64, BN: 64, BK: 32, WM: 32, WN: 32, BUFFERS: 2 },
  { BM: 64, BN: 64, BK: 32, WM: 32, WN: 32, BUFFERS: 1 },
  { BM: 128, BN: 256, BK: 32, WM: 64, WN: 64, BUFFERS: 1 },
  { BM: 128, BN: 128, BK: 64, WM: 64, WN: 32, BUFFERS: 1 },
  { BM: 128, BN: 128, BK: 32, WM: 64, WN: 64, BUFFERS: 1 },
];
/** So many of them are taken without a measurement; the rest only where one says so. */
const untunedMatrix = 5;
/** Smaller products than this in any direction fill matrices badly, and are skinny enough to be bound by memory. */
const leastMatrixSize = 64;

/** Bytes of the tables of a quantised operand (scales-nested.wgsl), and of the adapter's two words. */
const tableBytes = 4 * (16 + 256) + 8;

function matrixTileFits({ matrix, limits }: Gpu, { BM, BN, BK, WM, WN, BUFFERS }: MatrixTile): boolean {
  if (!matrix) return false;
  const subgroups = (BM / WM) * (BN / WN);
  // Tiles stand along k or across it; the longer form counts.
  const tile = (across: number) => 2 * Math.max(across * (BK + 8), BK * (across + 8));
  const bytes = BUFFERS * (tile(BM) + tile(BN)) + 4 * subgroups * matrix.m * matrix.n + tableBytes;
  return (
    bytes <= limits.maxComputeWorkgroupStorageSize &&
    subgroups * matrix.subgroupSize <= limits.maxComputeInvocationsPerWorkgroup &&
    [BK % matrix.k, WM % matrix.m, WN % matrix.n].every((rest) => rest === 0)
  );
}

/** The tile for a product on subgroup matrices; undefined where the tier has none or the product is too small. */
export function chooseMatrixTile(gpu: Gpu, product: TiledProduct): MatrixTile | undefined {
  const { m, n, k } = product;
  if (!gpu.matrix || Math.min(m, n, k) < leastMatrixSize) return undefined;
  const measured = measuredPlace(gpu, product);
  if (measured !== undefined && measured >= matrixTiles.length) return undefined;
  const tuned = measured === undefined ? undefined : matrixTiles[measured];
  if (tuned && matrixTileFits(gpu, tuned)) return tuned;
  const fitting = matrixTiles.slice(0, untunedMatrix).filter((tile) => matrixTileFits(gpu, tile));
  return fitting.find((tile) => countTiles(m, n, tile) >= busyTiles) ?? fitting.at(-1);
}

/** Whether the tile at `place` can run here; halfB as for chooseTile. */
export function placeFits(gpu: Gpu, place: number, halfB: boolean): boolean {
  const matrixTile = matrixTiles[place];
  if (matrixTile) return matrixTileFits(gpu, matrixTile);
  const tile = wideTiles[place - matrixTiles.length];
  return tile !== undefined && tileFits(gpu, tile, halfB);
}
