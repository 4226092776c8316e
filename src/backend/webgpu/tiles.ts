// Tile sizes of the matrix products by the product's shape and the device's limits, and in how many slices along K a product
// too small to fill a GPU is made.

import type { Gpu } from "./gpu.ts";

/** A workgroup makes BM x BN in steps of BK along K; an invocation TM x TN. All but BK are multiples of 4. */
export interface Tile {
  readonly BM: number;
  readonly BN: number;
  readonly BK: number;
  readonly TM: number;
  readonly TN: number;
}

/** In order of preference: the first whose least sizes the product reaches and whose memory the device has. */
const table: readonly (Tile & {
  readonly leastM: number;
  readonly leastN: number;
  readonly leastTiles: number;
})[] = [
  { BM: 128, BN: 128, BK: 16, TM: 8, TN: 8, leastM: 128, leastN: 128, leastTiles: 64 },
  { BM: 64, BN: 64, BK: 16, TM: 8, TN: 4, leastM: 33, leastN: 33, leastTiles: 0 },
  { BM: 64, BN: 32, BK: 16, TM: 4, TN: 4, leastM: 33, leastN: 17, leastTiles: 0 },
  { BM: 32, BN: 64, BK: 16, TM: 4, TN: 4, leastM: 17, leastN: 33, leastTiles: 0 },
  { BM: 64, BN: 16, BK: 16, TM: 4, TN: 4, leastM: 17, leastN: 0, leastTiles: 0 },
  { BM: 16, BN: 64, BK: 16, TM: 4, TN: 4, leastM: 0, leastN: 0, leastTiles: 0 },
];

/** Bytes of workgroup memory that gemm.wgsl uses with a tile. */
function tileBytes(tile: Tile, halfB: boolean): number {
  return tile.BK * 16 * (tile.BM / 4 + 1) + tile.BK * (halfB ? 8 : 16) * (tile.BN / 4 + 1);
}

/** The tile for a product; `halfB`: B's tile is f16 where the tier has it. */
export function chooseTile(
  gpu: Gpu,
  { m, n }: { readonly m: number; readonly n: number },
  halfB: boolean,
): Tile {
  const half = halfB && gpu.tier !== "f32";
  for (const { leastM, leastN, leastTiles, ...tile } of table) {
    if (m < leastM || n < leastN) continue;
    if (Math.ceil(m / tile.BM) * Math.ceil(n / tile.BN) < leastTiles) continue;
    const lanes = (tile.BM / tile.TM) * (tile.BN / tile.TN);
    if (tileBytes(tile, half) > gpu.limits.maxComputeWorkgroupStorageSize) continue;
    if (lanes > gpu.limits.maxComputeInvocationsPerWorkgroup) continue;
    return tile;
  }
  const { BM, BN, BK, TM, TN } = table.at(-1)!;
  return { BM, BN, BK, TM, TN };
}

/** Workgroups that a product should have at least, lest most of a GPU stands idle. */
const busyGroups = 128;
/** K elements that a slice has at least, and bytes of partial products at most. */
const sliceLength = 256;
const partialBytes = 32 * 2 ** 20;

/** Slices of K: as many as keep the GPU busy. Depends on sizes alone, so the same product sums in the same order. */
export function splitsOf(
  gpu: Gpu,
  { m, n, k }: { readonly m: number; readonly n: number; readonly k: number },
  tile: { readonly BM: number; readonly BN: number },
): number {
  const groups = Math.ceil(m / tile.BM) * Math.ceil(n / tile.BN);
  const wanted = Math.min(Math.ceil(busyGroups / groups), Math.floor(k / sliceLength));
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
}

const matrixTable: readonly (MatrixTile & { readonly leastTiles: number })[] = [
  { BM: 128, BN: 128, BK: 32, WM: 64, WN: 32, leastTiles: 64 },
  { BM: 64, BN: 64, BK: 32, WM: 32, WN: 32, leastTiles: 0 },
];
/** Smaller products than this in any direction fill matrices badly, and are skinny enough to be bound by memory. */
const leastMatrixSize = 64;

/** The tile for a product on subgroup matrices; undefined where the tier has none or the product is too small. */
export function chooseMatrixTile(
  gpu: Gpu,
  { m, n, k }: { readonly m: number; readonly n: number; readonly k: number },
): MatrixTile | undefined {
  const { matrix, limits } = gpu;
  if (!matrix || Math.min(m, n, k) < leastMatrixSize) return undefined;
  return matrixTable.find(({ BM, BN, BK, WM, WN, leastTiles }) => {
    const subgroups = (BM / WM) * (BN / WN);
    // Tiles stand along k or across it; the longer form counts.
    const tile = (across: number) => 2 * Math.max(across * (BK + 8), BK * (across + 8));
    const bytes = tile(BM) + tile(BN) + 4 * subgroups * matrix.m * matrix.n;
    return (
      Math.ceil(m / BM) * Math.ceil(n / BN) >= leastTiles &&
      bytes <= limits.maxComputeWorkgroupStorageSize &&
      subgroups * matrix.subgroupSize <= limits.maxComputeInvocationsPerWorkgroup &&
      [BK % matrix.k, WM % matrix.m, WN % matrix.n].every((rest) => rest === 0)
    );
  });
}
