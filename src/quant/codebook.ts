// A 4-bit codebook quantiser: a tensor, flattened row-major, is cut into blocks; each block is divided by its largest
// magnitude (absmax) and each value becomes the index of the nearest of 16 codebook entries in [-1, 1].
// nf4.ts, fp4.ts and int4.ts are this file with three codebooks. Not here: quantising the scales themselves
// (double-quant.ts), 8-bit blocks (blockwise-8bit.ts), the matrix kernels that read the codes (backend/).
//
//   byte i of codes:  | code of element 2i (high nibble) | code of element 2i + 1 (low nibble) |
//
// Bytes and scales are those of bitsandbytes 0.50 on the CPU; every product is therefore rounded to f32.

import { invariant, UserError } from "../util/errors.ts";

/** Block sizes that bitsandbytes accepts; a file with another one could not be read there. */
export const blockSizes = [32, 64, 128, 256, 512, 1024, 2048, 4096] as const;

/** A partial last block is scaled by at least this, and the floor is stored; a whole block only divides by it. */
export const SMALLEST_SCALE = Math.fround(1e-38);

/** A tensor in 4 bits: element i is codebook[code i] * absmax[floor(i / blockSize)]. */
export interface QuantizedBlocks {
  /** [ceil(count / 2)], two codes a byte. */
  readonly codes: Uint8Array;
  /** [ceil(count / blockSize)]. */
  readonly absmax: Float32Array;
}

/** What a device needs to find nearest codes: code = codeByRank[number of thresholds below the value]. */
export interface NearestCodes {
  /** [15], ascending: the midpoints between neighbouring codebook values. */
  readonly thresholds: Float32Array;
  /** [16]: codes by ascending value. */
  readonly codeByRank: Uint8Array;
}

/** What a file in this folder exports and index.ts registers. */
export interface CodebookQuantizer extends NearestCodes {
  readonly name: string;
  /** The 16 values, by code. */
  readonly codebook: Float32Array;
  quantize(values: Float32Array, blockSize: number): QuantizedBlocks;
  /** The first `count` elements, in f32. */
  dequantize(blocks: QuantizedBlocks, count: number, blockSize: number): Float32Array;
}

/** A quantiser for 16 codebook values. `ascending` lists the codes by value, and decides which of two equal values is used below zero. */
export function codebookQuantizer(
  name: string,
  codebook: Float32Array,
  ascending: ArrayLike<number> = Uint8Array.from(codebook, (_, code) => code),
): CodebookQuantizer {
  const search = nearestSearch(codebook, ascending);
  return {
    name,
    codebook,
    thresholds: search.thresholds.slice(0, 15),
    codeByRank: search.codeByRank,
    quantize: (values, blockSize) => quantize(values, blockSize, search),
    dequantize: (blocks, count, blockSize) => dequantize(blocks, count, blockSize, codebook),
  };
}

/** Throws unless `blockSize` is one that 4-bit files may have. */
export function checkBlockSize(blockSize: number): void {
  if (!(blockSizes as readonly number[]).includes(blockSize)) {
    throw new UserError(`quantisation block size ${blockSize}: expected one of ${blockSizes.join(", ")}`);
  }
}

/** Finds the nearest codebook value without a branch that depends on the weights, which no processor can predict. */
interface NearestSearch {
  /** [-1, 1] is cut into cells; startRank[cell] thresholds lie below the cell, and at most two inside it. */
  readonly startRank: Uint8Array;
  /** A value above threshold i is nearer to the (i+1)-th codebook value than to the i-th; two infinities end the list. */
  readonly thresholds: Float32Array;
  readonly codeByRank: Uint8Array;
}

/** Cells in one unit; the width, 1/128, keeps more than two thresholds of any registered codebook apart. */
const CELLS = 128;

function nearestSearch(codebook: Float32Array, ascending: ArrayLike<number>): NearestSearch {
  const thresholds = new Float32Array(17).fill(Number.POSITIVE_INFINITY);
  for (let i = 0; i < 15; i++) {
    thresholds[i] = Math.fround(codebook[ascending[i]!]! + codebook[ascending[i + 1]!]!) / 2;
  }
  const startRank = Uint8Array.from({ length: 2 * CELLS + 1 }, (_, cell) => {
    const [low, high] = [cell / CELLS - 1, (cell + 1) / CELLS - 1];
    const inside = thresholds.filter((threshold) => threshold >= low && threshold < high).length;
    invariant(inside <= 2, `codebook: ${inside} thresholds in one cell of the search`);
    return thresholds.filter((threshold) => threshold < low).length;
  });
  return { startRank, thresholds, codeByRank: Uint8Array.from(ascending) };
}

/** The code of x in [-1, 1]; a midpoint goes to the lower value. */
function codeOf(x: number, { startRank, thresholds, codeByRank }: NearestSearch): number {
  let rank = startRank[((x + 1) * CELLS) | 0]!;
  rank += Number(x > thresholds[rank]!);
  rank += Number(x > thresholds[rank]!);
  return codeByRank[rank]!;
}

function quantize(values: Float32Array, blockSize: number, search: NearestSearch): QuantizedBlocks {
  checkBlockSize(blockSize);
  const count = values.length;
  const absmax = new Float32Array(Math.ceil(count / blockSize));
  const codes = new Uint8Array(Math.ceil(count / 2));
  for (let start = 0, block = 0; start < count; start += blockSize, block++) {
    const end = Math.min(start + blockSize, count);
    const largest = blockAbsmax(values, start, end);
    const scale = Math.max(largest, SMALLEST_SCALE);
    if (end - start === blockSize) {
      absmax[block] = largest;
      const inverse = Math.fround(1 / scale);
      for (let i = start; i < end; i += 2) {
        const even = codeOf(Math.fround(values[i]! * inverse), search);
        codes[i >>> 1] = (even << 4) | codeOf(Math.fround(values[i + 1]! * inverse), search);
      }
    } else {
      // bitsandbytes divides in the partial block, where it multiplies by the inverse in whole ones.
      absmax[block] = scale;
      for (let i = start; i < end; i += 2) {
        const odd = i + 1 < end ? Math.fround(values[i + 1]! / scale) : 0; // the padding nibble encodes zero
        codes[i >>> 1] = (codeOf(Math.fround(values[i]! / scale), search) << 4) | codeOf(odd, search);
      }
    }
  }
  return { codes, absmax };
}

/** Largest magnitude of values[start, end). Throws UserError on NaN and infinity: no scale can hold them. */
export function blockAbsmax(values: Float32Array, start: number, end: number): number {
  let largest = 0;
  let nonFinite = 0;
  for (let i = start; i < end; i++) {
    const value = values[i]!;
    const magnitude = Math.abs(value);
    if (magnitude > largest) largest = magnitude;
    nonFinite += value - value; // 0 for finite numbers, else NaN
  }
  if (nonFinite !== 0) {
    const at = values.subarray(start, end).findIndex((value) => !Number.isFinite(value)) + start;
    throw new UserError(`cannot quantise: element ${at} is ${values[at]}; every value must be finite`);
  }
  return largest;
}

function dequantize(
  { codes, absmax }: QuantizedBlocks,
  count: number,
  blockSize: number,
  codebook: Float32Array,
): Float32Array {
  checkBlockSize(blockSize);
  if (codes.length !== Math.ceil(count / 2) || absmax.length !== Math.ceil(count / blockSize)) {
    throw new UserError(
      `4-bit tensor of ${count} elements in blocks of ${blockSize}: expected ${Math.ceil(count / 2)} bytes of codes and ` +
        `${Math.ceil(count / blockSize)} scales; found ${codes.length} and ${absmax.length}`,
    );
  }
  const out = new Float32Array(count);
  for (let start = 0, block = 0; start < count; start += blockSize, block++) {
    const scale = absmax[block]!;
    const end = Math.min(start + blockSize, count);
    for (let i = start; i < end; i++) {
      const byte = codes[i >>> 1]!;
      out[i] = codebook[i & 1 ? byte & 15 : byte >>> 4]! * scale; // the store rounds to f32
    }
  }
  return out;
}
