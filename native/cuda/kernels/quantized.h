// Reading weights quantised through a codebook of 16 values: two codes a byte, the even element in the high nibble, element
// i = codebook[code] * scale of block i >> blockShift, the scale itself f32 or nestedCodebook[byte] * nestedAbsmax +
// offset. Every consumer makes an element with the same two roundings, to f32 and, for bf16 products, to bf16.
#pragma once
#include "../device.h"

/** value / size, by shifting where size is a power of two (shift 64: it is not). */
FN u64 divideBy(u64 value, u32 size, u32 shift) { return shift < 64 ? value >> shift : value / size; }

/** Code e (0 to 7) of a word of eight. */
FN u32 codeOf(u32 word, int e) { return word >> (8 * (e >> 1) + (e & 1 ? 0 : 4)) & 15u; }

/** Eight codes under one scale as bf16. */
FN uint4 decodeEight(u32 word, const float* table, float scale) {
  u32 pairs[4];
  UNROLL
  for (int i = 0; i < 4; i++) {
    const float even = table[codeOf(word, 2 * i)] * scale, odd = table[codeOf(word, 2 * i + 1)] * scale;
    pairs[i] = packBf16(even, odd);
  }
  return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

/** A codebook of 16 as bf16, in byte planes: registers from which byte permutes pick four codes at a time. */
struct CodePlanes {
  u32 low[4], high[4];
};

FN CodePlanes planesOf(const float* codebook) {
  CodePlanes planes;
  UNROLL
  for (int i = 0; i < 4; i++) {
    const u32 x = packBf16(codebook[4 * i], codebook[4 * i + 1]), y = packBf16(codebook[4 * i + 2], codebook[4 * i + 3]);
    planes.low[i] = __byte_perm(x, y, 0x6420);
    planes.high[i] = __byte_perm(x, y, 0x7531);
  }
  return planes;
}

/** Four codes: bit 3 of each nibble cleared in `low`, and in `select` 0x3210 with 4 added where it was set. */
FN void pickFour(const CodePlanes& p, u32 low, u32 select, u32& first, u32& second) {
  const u32 l = __byte_perm(__byte_perm(p.low[0], p.low[1], low), __byte_perm(p.low[2], p.low[3], low), select);
  const u32 h = __byte_perm(__byte_perm(p.high[0], p.high[1], low), __byte_perm(p.high[2], p.high[3], low), select);
  first = __byte_perm(l, h, 0x4051);
  second = __byte_perm(l, h, 0x6273);
}

/** Eight codes of a word, unscaled, as four pairs of bf16. */
FN void pickEight(const CodePlanes& p, u32 word, u32 (&pairs)[4]) {
  const u32 low = word & 0x77777777u, select = (word >> 1 & 0x44444444u) | 0x32103210u;
  pickFour(p, low, select, pairs[0], pairs[1]);
  pickFour(p, low >> 16, select >> 16, pairs[2], pairs[3]);
}
