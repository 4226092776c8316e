// Tile sizes of the matrix products by the product's shape and the device's limits.

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
