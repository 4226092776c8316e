// Transposes 16 rows of 32-bit units: the inner loop of packing a weight whose rows are the product's columns.
#pragma once
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

#if defined(__AVX512F__)
inline __attribute__((always_inline)) void transpose16(__m512i (&r)[16]) {
  __m512i t[16];
  LOWRANK_UNROLL
  for (int i = 0; i < 8; i++) {  // pairs of rows, 32-bit units
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  LOWRANK_UNROLL
  for (int i = 0; i < 4; i++) {  // pairs of pairs, 64-bit units: now 4 x 4 blocks stand in each 128-bit lane
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  LOWRANK_UNROLL
  for (int i = 0; i < 4; i++) {  // transpose the 4 x 4 lanes
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  LOWRANK_UNROLL
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}
#endif

/**
 * to[unit * stride + row] = rows[row][unit] for 16 rows (null: zeros) and `units` <= 16 units, zeros from `units` up
 * to `written`. Rows may be unaligned.
 */
inline void transposeBlock(const void* const* rows, int64_t offset, int units, int written, uint32_t* to,
                           int64_t stride) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << units) - 1);
  __m512i r[16];
  LOWRANK_UNROLL
  for (int i = 0; i < 16; i++) {
    const __mmask16 valid = rows[i] ? mask : __mmask16{0};
    r[i] = _mm512_maskz_loadu_epi32(valid, static_cast<const uint32_t*>(rows[i]) + offset);
  }
  transpose16(r);
  if (written == 16) {
    LOWRANK_UNROLL
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + i * stride, r[i]);
  } else {
    for (int i = 0; i < written; i++) _mm512_storeu_si512(to + i * stride, r[i]);
  }
#else
  for (int row = 0; row < 16; row++) {
    const auto* from = rows[row] ? static_cast<const uint8_t*>(rows[row]) + 4 * offset : nullptr;
    for (int unit = 0; unit < written; unit++) {
      uint32_t value = 0;
      if (from && unit < units) std::memcpy(&value, from + 4 * unit, 4);
      to[unit * stride + row] = value;
    }
  }
#endif
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
