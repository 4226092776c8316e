// A 4-bit codebook quantiser: a tensor, flattened row-major, is cut into blocks; each block is divided by its largest
// magnitude (absmax) and each value becomes the index of the nearest of 16 codebook entries in [-1, 1].
// nf4.ts, fp4.ts and int4.ts are this file with three codebooks. Not here: quantising the scales themselves
// (double-quant.ts), 8-bit blocks (blockwise-8bit.ts), the matrix kernels that read the codes (backend/).
//
//   byte i of codes:  | code of element 2i (high nibble) | code of element 2i + 1 (low nibble) |
//
// Bytes and scales are those of bitsandbytes 0.50 on the CPU; every product is therefore rounded to f32.

import { UserError } from "../util/errors.ts";

/** Block sizes that bitsandbytes accepts; a file with another one could not be read there. */
export const blockSizes = [32, 64, 128, 256, 512, 1024, 2048, 4096] as const;

/** A partial last block is scaled by at least this, and the floor is stored; a whole block only divides by it. */
const SMALLEST_SCALE = Math.fround(1e-38);

/** A tensor in 4 bits: element i is codebook[code i] * absmax[floor(i / blockSize)]. */
export interface QuantizedBlocks {
  /** [ceil(count / 2)], two codes a byte. */
  readonly codes: Uint8Array;
  /** [ceil(count / blockSize)]. */
  readonly absmax: Float32Array;
}

/** What a file in this folder exports and index.ts registers. */
export interface CodebookQuantizer {
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
  const thresholds = new Float32Array(15); // a value above threshold i is nearer to the (i+1)-th codebook value
  for (let i = 0; i < 15; i++) {
    thresholds[i] = Math.fround(codebook[ascending[i]!]! + codebook[ascending[i + 1]!]!) / 2;
  }
  const codeByRank = Uint8Array.from(ascending);
  return {
    name,
    codebook,
    quantize: (values, blockSize) => quantize(values, blockSize, thresholds, codeByRank),
    dequantize: (blocks, count, blockSize) => dequantize(blocks, count, blockSize, codebook),
  };
}

/** Throws unless `blockSize` is one that 4-bit files may have. */
export function checkBlockSize(blockSize: number): void {
  if (!(blockSizes as readonly number[]).includes(blockSize)) {
    throw new UserError(`quantisation block size ${blockSize}: expected one of ${blockSizes.join(", ")}`);
  }
}

function quantize(
  values: Float32Array,
  blockSize: number,
  thresholds: Float32Array,
  codeByRank: Uint8Array,
): QuantizedBlocks {
  checkBlockSize(blockSize);
  const count = values.length;
  const absmax = new Float32Array(Math.ceil(count / blockSize));
  const codes = new Uint8Array(Math.ceil(count / 2));
  for (let start = 0, block = 0; start < count; start += blockSize, block++) {
    const end = Math.min(start + blockSize, count);
    const largest = blockAbsmax(values, start, end);
    const whole = end - start === blockSize;
    const scale = Math.max(largest, SMALLEST_SCALE);
    absmax[block] = whole ? largest : scale;
    const inverse = Math.fround(1 / scale);
    for (let i = start; i < end; i++) {
      // bitsandbytes multiplies whole blocks by the inverse and divides the partial one.
      const x = whole ? Math.fround(values[i]! * inverse) : Math.fround(values[i]! / scale);
      let rank = x > thresholds[7]! ? 8 : 0;
      if (x > thresholds[rank + 3]!) rank += 4;
      if (x > thresholds[rank + 1]!) rank += 2;
      if (x > thresholds[rank]!) rank += 1;
      const code = codeByRank[rank]!;
      codes[i >>> 1] = i & 1 ? codes[i >>> 1]! | code : code << 4;
    }
  }
  if (count & 1) codes[count >>> 1]! |= codeByRank[7]!; // the padding nibble encodes zero
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
