// 8-bit blockwise quantisation: each block is divided by its largest magnitude and each value becomes the code of a
// nearby entry of a 256-value map (dynamic-map.ts). Used for scales (double-quant.ts) and 8-bit optimizer moments.
//
// Two ways to find the entry:
// "nearest" is the exact nearest entry (a midpoint goes to the lower one): the definition, and what optimizers need.
// "grid" first rounds the value to one of 65,536 points of [-1, 1] and takes that point's nearest entry, as
// bitsandbytes' CPU build does; bytes then equal its bytes, but values below 1.5e-5 of the block's largest are
// coarsened (zero becomes 2.125e-5), so it serves only to reproduce files.

import { BugError } from "../util/errors.ts";
import { blockAbsmax } from "./codebook.ts";

export type MapLookup = "nearest" | "grid";

/** Element i is map[codes[i]] * absmax[floor(i / blockSize)]. */
export interface Blockwise8bit {
  readonly codes: Uint8Array; // [count]
  readonly absmax: Float32Array; // [ceil(count / blockSize)]
}

const SMALLEST_SCALE = Math.fround(1e-38);
const GRID_POINTS = 65536;
const HALF_GRID = 32767.5; // (GRID_POINTS - 1) / 2

/** Quantises `values` (finite) through the 256 ascending entries of `map`. */
export function quantizeBlockwise(
  values: Float32Array,
  map: Float32Array,
  blockSize: number,
  lookup: MapLookup = "nearest",
): Blockwise8bit {
  if (map.length !== 256) throw new BugError(`quantizeBlockwise: a map has 256 entries, not ${map.length}`);
  const codes = new Uint8Array(values.length);
  const absmax = new Float32Array(Math.ceil(values.length / blockSize));
  const thresholds = midpointsOf(map);
  const grid = lookup === "grid" ? gridOf(map) : undefined;
  for (let start = 0, block = 0; start < values.length; start += blockSize, block++) {
    const end = Math.min(start + blockSize, values.length);
    const largest = blockAbsmax(values, start, end);
    absmax[block] = largest;
    if (grid) {
      if (largest > 0) encodeOnGrid(values, start, end, Math.fround(1 / largest), grid, codes);
      continue; // a block of zeros has code 0 and scale 0
    }
    const inverse = Math.fround(1 / Math.max(largest, SMALLEST_SCALE));
    for (let i = start; i < end; i++) codes[i] = rankOf(Math.fround(values[i]! * inverse), thresholds);
  }
  return { codes, absmax };
}

/** The values that codes stand for, in f32. */
export function dequantizeBlockwise(
  { codes, absmax }: Blockwise8bit,
  map: Float32Array,
  blockSize: number,
): Float32Array {
  const out = new Float32Array(codes.length);
  for (let start = 0, block = 0; start < codes.length; start += blockSize, block++) {
    const scale = absmax[block]!;
    const end = Math.min(start + blockSize, codes.length);
    for (let i = start; i < end; i++) out[i] = map[codes[i]!]! * scale;
  }
  return out;
}

/** thresholds[i], rounded to f32, lies between entries i and i + 1. */
function midpointsOf(map: Float32Array): Float32Array {
  return Float32Array.from({ length: 255 }, (_, i) => Math.fround(map[i]! + map[i + 1]!) / 2);
}

/** Number of thresholds below x, by halving: the code of the nearest entry. */
function rankOf(x: number, thresholds: Float32Array): number {
  let rank = 0;
  for (let half = 128; half > 0; half >>= 1) if (x > thresholds[rank + half - 1]!) rank += half;
  return rank;
}

const grids = new WeakMap<Float32Array, Uint8Array>();

/** Code of each grid point i, which stands for 2 i / 65535 - 1. */
function gridOf(map: Float32Array): Uint8Array {
  let grid = grids.get(map);
  if (grid) return grid;
  grid = new Uint8Array(GRID_POINTS);
  for (let i = 0, above = 0; i < GRID_POINTS; i++) {
    const x = Math.fround(Math.fround(Math.fround(i / (GRID_POINTS - 1)) * 2) - 1);
    while (above < 255 && map[above]! < x) above++;
    const below = Math.max(above - 1, 0);
    grid[i] =
      Math.abs(Math.fround(x - map[below]!)) <= Math.abs(Math.fround(map[above]! - x)) ? below : above;
  }
  grids.set(map, grid);
  return grid;
}

function encodeOnGrid(
  values: Float32Array,
  start: number,
  end: number,
  inverse: number,
  grid: Uint8Array,
  codes: Uint8Array,
): void {
  for (let i = start; i < end; i++) {
    const x = Math.fround(values[i]! * inverse);
    // In a block of subnormals the inverse may be infinite, and zero then lands on point 0.
    const clamped = Number.isNaN(x) ? -1 : Math.min(Math.max(x, -1), 1);
    const point = Math.fround(Math.fround(Math.fround(clamped + 1) * HALF_GRID) + 0.5);
    codes[i] = grid[Math.min(Math.floor(point), GRID_POINTS - 1)]!;
  }
}
