// ggml's K-quants: blocks of 256 numbers whose sub-blocks have scales that are quantised themselves.
//
//   q4_k  | d f16 | dmin f16 | 12 bytes | 128 bytes |             8 sub-blocks of 32: d * scale * code - dmin * min
//   q5_k  | d f16 | dmin f16 | 12 bytes | 32 bytes | 128 bytes |  the same; bit 2 i of the 32 bytes: fifth bits of
//                                                                 elements 64 i + j, bit 2 i + 1: of 64 i + 32 + j
//         12 bytes: six bits of scale and min of sub-block j. j < 4: byte j, byte j + 4. Else the low four of both in
//         byte j + 4, the high two in the top of bytes j - 4 and j
//         128 bytes, 32 by 32: codes of 64 elements, element j in the low and element 32 + j in the high nibble
//   q6_k  | 128 bytes | 64 bytes | 16 scales, i8 | d f16 |        16 sub-blocks of 16: d * scale * (code - 32)
//         of each half of 128 elements: 64 bytes of low nibbles (element l with l + 64, l + 32 with l + 96), 32 bytes of
//         high pairs (elements l, l + 32, l + 64, l + 96)
//
// Layouts and the candidates tried: llama.cpp's ggml-common.h and ggml-quants.c.

import { f16Table, toF16Bits } from "../../tensor/dtype.ts";
import { clamped, fitPositive, fitSymmetric, fitWithMinimum, nearest } from "./block-fits.ts";
import { type BlockType, f, sumOfSquares, weigh } from "./block-type.ts";

const block = 256;
const codes = new Uint8Array(block);

const weights = new Float32Array(32);
const scales = new Float32Array(8);
const minimums = new Float32Array(8);
const scaleCodes = new Uint8Array(8);
const minimumCodes = new Uint8Array(8);
const totals = new Float32Array(8);

const withImportance = { first: -0.9, step: 0.05, steps: 36 };

function packScales(to: DataView, at: number): void {
  for (let j = 0; j < 4; j++) {
    const [scale, minimum, scale4, minimum4] = [
      scaleCodes[j]!,
      minimumCodes[j]!,
      scaleCodes[j + 4]!,
      minimumCodes[j + 4]!,
    ];
    to.setUint8(at + j, scale | ((scale4 >> 4) << 6));
    to.setUint8(at + j + 4, minimum | ((minimum4 >> 4) << 6));
    to.setUint8(at + j + 8, (scale4 & 15) | ((minimum4 & 15) << 4));
  }
}

function unpackScales(from: DataView, at: number): void {
  for (let j = 0; j < 4; j++) {
    const [first, second, third] = [
      from.getUint8(at + j),
      from.getUint8(at + j + 4),
      from.getUint8(at + j + 8),
    ];
    scaleCodes[j] = first & 63;
    minimumCodes[j] = second & 63;
    scaleCodes[j + 4] = (third & 15) | ((first >> 6) << 4);
    minimumCodes[j + 4] = (third >> 4) | ((second >> 6) << 4);
  }
}

/** Six-bit codes of the sub-blocks' scales or minimums, by the largest; returns what one unit is. */
function sixBits(values: Float32Array, to: Uint8Array): number {
  let largest = 0;
  for (const value of values) if (value > largest) largest = value;
  const inverse = largest > 0 ? f(63 / largest) : 0;
  for (let j = 0; j < 8; j++) to[j] = Math.min(63, nearest(f(inverse * values[j]!)));
  return f(largest / 63);
}

/** q4_k and q5_k. */
function withMinimums(
  levels: 15 | 31,
  search: { readonly first: number; readonly step: number; readonly steps: number },
): BlockType {
  const wide = levels === 31;
  const codesAt = wide ? 48 : 16;
  const blockBytes = codesAt + 128;

  function fitSubBlocks(row: Float32Array, start: number, importance: Float32Array | undefined): void {
    const sigma2 = importance && f(f(2 * sumOfSquares(row, start, block)) / block);
    for (let j = 0; j < 8; j++) {
      const at = start + 32 * j;
      if (importance) {
        weigh(row, at, 32, sigma2!, importance, weights);
        let total = 0;
        for (const weight of weights) total = f(total + weight);
        totals[j] = total;
      } else {
        const mean = f(Math.sqrt(f(sumOfSquares(row, at, 32) / 32)));
        for (let i = 0; i < 32; i++) weights[i] = f(mean + Math.abs(row[at + i]!));
      }
      const numbers = { values: row, at, count: 32 };
      const found = fitWithMinimum(
        numbers,
        levels,
        weights,
        codes,
        32 * j,
        importance ? withImportance : search,
      );
      scales[j] = found.scale;
      minimums[j] = found.minimum;
    }
  }

  return {
    block,
    blockBytes,
    encodeRow(row, to, at, importance) {
      for (let start = 0; start < row.length; start += block, at += blockBytes) {
        fitSubBlocks(row, start, importance);
        const unit = importance ? fitPositive(scales, 63, scaleCodes, totals) : sixBits(scales, scaleCodes);
        const unitOfMinimums = importance
          ? fitPositive(minimums, 63, minimumCodes, totals)
          : sixBits(minimums, minimumCodes);
        to.setUint16(at, toF16Bits(unit), true);
        to.setUint16(at + 2, toF16Bits(unitOfMinimums), true);
        packScales(to, at + 4);
        // Codes once more, with what the scales have become.
        const d = f16Table()[to.getUint16(at, true)]!;
        const dMin = f16Table()[to.getUint16(at + 2, true)]!;
        for (let j = 0; j < 8; j++) {
          const scale = f(d * scaleCodes[j]!);
          if (scale === 0) continue;
          const minimum = f(dMin * minimumCodes[j]!);
          for (let i = 32 * j; i < 32 * j + 32; i++) {
            const code = nearest(f(f(row[start + i]! + minimum) / scale));
            codes[i] = clamped(code, 0, levels);
          }
        }
        for (let j = 0; j < 128; j++) {
          const first = 64 * (j >> 5) + (j & 31);
          to.setUint8(at + codesAt + j, (codes[first]! & 15) | ((codes[first + 32]! & 15) << 4));
        }
        for (let j = 0; wide && j < 32; j++) {
          let high = 0;
          for (let i = 0; i < 8; i++) high |= (codes[32 * i + j]! >> 4) << i;
          to.setUint8(at + 16 + j, high);
        }
      }
    },
    decode(from, at, to, toAt) {
      const d = f16Table()[from.getUint16(at, true)]!;
      const dMin = f16Table()[from.getUint16(at + 2, true)]!;
      unpackScales(from, at + 4);
      for (let j = 0; j < 8; j++) {
        const scale = f(d * scaleCodes[j]!);
        const minimum = f(dMin * minimumCodes[j]!);
        for (let i = 0; i < 32; i++) {
          const byte = from.getUint8(at + codesAt + 32 * (j >> 1) + i);
          const high = wide ? ((from.getUint8(at + 16 + i) >> j) & 1) << 4 : 0;
          to[toAt + 32 * j + i] = f(scale * ((j % 2 === 0 ? byte & 15 : byte >> 4) + high)) - minimum;
        }
      }
    },
  };
}

const sixBitScales = new Float32Array(16);

/** Element 128 h + 32 q + l of a q6_k block: where its low nibble and its high pair lie. */
const q6 = {
  low: (h: number, q: number, l: number) => 64 * h + 32 * (q & 1) + l,
  high: (h: number, l: number) => 128 + 32 * h + l,
  scalesAt: 192,
  dAt: 208,
  bytes: 210,
} as const;

const q6_k: BlockType = {
  block,
  blockBytes: q6.bytes,
  encodeRow(row, to, at, importance) {
    for (let start = 0; start < row.length; start += block, at += q6.bytes) {
      let extreme = 0;
      for (let j = 0; j < 16; j++) {
        const begin = start + 16 * j;
        const weights = importance && { values: importance, at: begin };
        const scale = fitSymmetric({ values: row, at: begin, count: 16 }, 32, codes, 16 * j, weights);
        sixBitScales[j] = scale;
        if (Math.abs(scale) > Math.abs(extreme)) extreme = scale;
      }
      for (let i = 0; i < q6.bytes; i++) to.setUint8(at + i, 0);
      if (Math.abs(extreme) < f(1e-15)) continue;
      const inverse = f(-128 / extreme);
      to.setUint16(at + q6.dAt, toF16Bits(f(1 / inverse)), true);
      const d = f16Table()[to.getUint16(at + q6.dAt, true)]!;
      for (let j = 0; j < 16; j++) {
        const scaleCode = Math.min(127, nearest(f(inverse * sixBitScales[j]!)));
        to.setInt8(at + q6.scalesAt + j, scaleCode);
        const scale = f(d * to.getInt8(at + q6.scalesAt + j));
        if (scale === 0) continue;
        for (let i = 16 * j; i < 16 * j + 16; i++) {
          const code = nearest(f(row[start + i]! / scale));
          codes[i] = 32 + clamped(code, -32, 31);
        }
      }
      for (let i = 0; i < block; i++) {
        const [h, q, l] = [i >> 7, (i >> 5) & 3, i & 31];
        const low = at + q6.low(h, q, l);
        const high = at + q6.high(h, l);
        to.setUint8(low, to.getUint8(low) | ((codes[i]! & 15) << (q < 2 ? 0 : 4)));
        to.setUint8(high, to.getUint8(high) | ((codes[i]! >> 4) << (2 * q)));
      }
    }
  },
  decode(from, at, to, toAt) {
    const d = f16Table()[from.getUint16(at + q6.dAt, true)]!;
    for (let i = 0; i < block; i++) {
      const [h, q, l] = [i >> 7, (i >> 5) & 3, i & 31];
      const low = (from.getUint8(at + q6.low(h, q, l)) >> (q < 2 ? 0 : 4)) & 15;
      const high = (from.getUint8(at + q6.high(h, l)) >> (2 * q)) & 3;
      to[toAt + i] = f(d * from.getInt8(at + q6.scalesAt + (i >> 4))) * ((low | (high << 4)) - 32);
    }
  },
};

export const kBlocks = {
  q4_k: withMinimums(15, { first: -1, step: 0.1, steps: 20 }),
  q5_k: withMinimums(31, { first: -0.5, step: 0.1, steps: 15 }),
  q6_k,
} as const satisfies Record<string, BlockType>;
