// ggml's blocks of 32 numbers with a scale of their own, and a minimum in the types that end in 1.
//
//   q4_0  | d f16 | 16 bytes |                 value = d * (code - 8)       byte j: code of element j (low nibble),
//   q4_1  | d f16 | m f16 | 16 bytes |         value = d * code + m                 of element j + 16 (high nibble)
//   q5_0  | d f16 | high u32 | 16 bytes |      value = d * (code - 16)      bit j of `high`: the fifth bit of element j
//   q5_1  | d f16 | m f16 | high u32 | 16 |    value = d * code + m
//   q8_0  | d f16 | 32 codes, i8 |             value = d * code
//   mxfp4 | e u8 | 16 bytes |                  value = FP4 code * 2^(e - 127)
//
// Codes are computed with the f32 scale before it is rounded to f16. Without importance: from the block's extreme, or
// its range. Layouts: llama.cpp's ggml-common.h.

import { f16Table, toF16Bits } from "../../tensor/dtype.ts";
import { fitSymmetric, fitWithMinimum, type Stretch } from "./block-fits.ts";
import { type BlockType, f, sumOfSquares, weigh } from "./block-type.ts";

const block = 32;
const search = { first: -0.9, step: 0.05, steps: 36 };

const codes = new Uint8Array(block);
const weights = new Float32Array(block);

/** The value of largest magnitude; of several the first. */
function extremeOf(row: Float32Array, start: number): number {
  let extreme = 0;
  for (let i = start; i < start + block; i++) if (Math.abs(row[i]!) > Math.abs(extreme)) extreme = row[i]!;
  return extreme;
}

/** Puts 32 codes of 4 bits, or their low 4 bits. */
function putNibbles(to: DataView, at: number): void {
  for (let j = 0; j < 16; j++) to.setUint8(at + j, (codes[j]! & 15) | ((codes[j + 16]! & 15) << 4));
}

function fifthBits(): number {
  let high = 0;
  for (let j = 0; j < block; j++) high |= (codes[j]! >> 4) << j;
  return high >>> 0;
}

const nibble = (from: DataView, at: number, i: number) =>
  i < 16 ? from.getUint8(at + i) & 15 : from.getUint8(at + i - 16) >> 4;

/** d * (code - levels): of 4 or 5 bits. */
function symmetric(levels: 8 | 16): BlockType {
  const wide = levels === 16;
  const codesAt = wide ? 6 : 2;
  return {
    block,
    blockBytes: codesAt + 16,
    encodeRow(row, to, at, importance) {
      const sigma2 = importance && f(sumOfSquares(row, 0, row.length) / row.length);
      for (let start = 0; start < row.length; start += block, at += codesAt + 16) {
        let scale: number;
        if (importance) {
          weigh(row, start, block, sigma2!, importance, weights);
          const numbers: Stretch = { values: row, at: start, count: block };
          scale = fitSymmetric(numbers, levels, codes, 0, { values: weights, at: 0 });
        } else {
          scale = f(extremeOf(row, start) / -levels);
          const inverse = scale !== 0 ? f(1 / scale) : 0;
          for (let i = 0; i < block; i++) {
            codes[i] = Math.min(2 * levels - 1, Math.trunc(f(f(row[start + i]! * inverse) + (levels + 0.5))));
          }
        }
        to.setUint16(at, toF16Bits(scale), true);
        if (wide) to.setUint32(at + 2, fifthBits(), true);
        putNibbles(to, at + codesAt);
      }
    },
    decode(from, at, to, toAt) {
      const scale = f16Table()[from.getUint16(at, true)]!;
      const high = wide ? from.getUint32(at + 2, true) : 0;
      for (let i = 0; i < block; i++) {
        to[toAt + i] = scale * ((nibble(from, at + codesAt, i) | (((high >>> i) & 1) << 4)) - levels);
      }
    },
  };
}

/** d * code + m: of 4 or 5 bits. */
function withMinimum(levels: 15 | 31): BlockType {
  const wide = levels === 31;
  const codesAt = wide ? 8 : 4;
  return {
    block,
    blockBytes: codesAt + 16,
    encodeRow(row, to, at, importance) {
      const sigma2 = importance && f(sumOfSquares(row, 0, row.length) / row.length);
      for (let start = 0; start < row.length; start += block, at += codesAt + 16) {
        let scale: number;
        let minimum: number;
        if (importance) {
          weigh(row, start, block, sigma2!, importance, weights);
          const fit = fitWithMinimum(
            { values: row, at: start, count: block },
            levels,
            weights,
            codes,
            0,
            search,
          );
          scale = fit.scale;
          minimum = -fit.minimum;
        } else {
          let high = row[start]!;
          minimum = high;
          for (let i = start; i < start + block; i++) {
            if (row[i]! < minimum) minimum = row[i]!;
            if (row[i]! > high) high = row[i]!;
          }
          scale = f(f(high - minimum) / levels);
          const inverse = scale !== 0 ? f(1 / scale) : 0;
          for (let i = 0; i < block; i++) {
            codes[i] = Math.min(levels, Math.trunc(f(f(f(row[start + i]! - minimum) * inverse) + 0.5)));
          }
        }
        to.setUint16(at, toF16Bits(scale), true);
        to.setUint16(at + 2, toF16Bits(minimum), true);
        if (wide) to.setUint32(at + 4, fifthBits(), true);
        putNibbles(to, at + codesAt);
      }
    },
    decode(from, at, to, toAt) {
      const scale = f16Table()[from.getUint16(at, true)]!;
      const minimum = f16Table()[from.getUint16(at + 2, true)]!;
      const high = wide ? from.getUint32(at + 4, true) : 0;
      for (let i = 0; i < block; i++) {
        const code = nibble(from, at + codesAt, i) | (((high >>> i) & 1) << 4);
        to[toAt + i] = f(scale * code) + minimum;
      }
    },
  };
}

const q8_0: BlockType = {
  block,
  blockBytes: 34,
  encodeRow(row, to, at) {
    for (let start = 0; start < row.length; start += block, at += 34) {
      const scale = f(Math.abs(extremeOf(row, start)) / 127);
      const inverse = scale > 0 ? f(1 / scale) : 0;
      to.setUint16(at, toF16Bits(scale), true);
      for (let i = 0; i < block; i++) {
        const x = f(row[start + i]! * inverse);
        // C's roundf: halves go away from zero.
        to.setInt8(at + 2 + i, Math.sign(x) * Math.floor(Math.abs(x) + 0.5));
      }
    }
  },
  decode(from, at, to, toAt) {
    const scale = f16Table()[from.getUint16(at, true)]!;
    for (let i = 0; i < block; i++) to[toAt + i] = scale * from.getInt8(at + 2 + i);
  },
};

/** FP4 (E2M1), by code. */
const fp4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6];

const mxfp4: BlockType = {
  block,
  blockBytes: 17,
  encodeRow(row, to, at) {
    for (let start = 0; start < row.length; start += block, at += 17) {
      const largest = Math.abs(extremeOf(row, start));
      const exponent = largest > 0 ? Math.max(0, Math.floor(Math.log2(largest)) - 2 + 127) : 0;
      const scale = 2 ** (exponent - 127);
      for (let i = 0; i < block; i++) {
        const distance = (code: number) => Math.abs(f(f(fp4[code]! * scale) - row[start + i]!));
        let nearest = 0;
        for (let code = 1; code < 16; code++) if (distance(code) < distance(nearest)) nearest = code;
        codes[i] = nearest;
      }
      to.setUint8(at, exponent);
      putNibbles(to, at + 1);
    }
  },
  decode(from, at, to, toAt) {
    const scale = 2 ** (from.getUint8(at) - 127);
    for (let i = 0; i < block; i++) to[toAt + i] = fp4[nibble(from, at + 1, i)]! * scale;
  },
};

export const smallBlocks = {
  q4_0: symmetric(8),
  q4_1: withMinimum(15),
  q5_0: symmetric(16),
  q5_1: withMinimum(31),
  q8_0,
  mxfp4,
} as const satisfies Record<string, BlockType>;
