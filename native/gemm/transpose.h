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
#elif defined(__AVX2__)
/** Eight units of eight rows, from `offset` on: to[unit * stride + row], the first `written` units of them. */
inline __attribute__((always_inline)) void transpose8(const uint32_t* const* rows, int64_t offset, int written,
                                                      uint32_t* to, int64_t stride) {
  __m256 r[8];
  LOWRANK_UNROLL
  for (int i = 0; i < 4; i++) {  // rows i and i + 4 side by side: their halves meet where loading costs no shuffle
    const auto* low = reinterpret_cast<const float*>(rows[i] + offset);
    const auto* high = reinterpret_cast<const float*>(rows[i + 4] + offset);
    r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
    r[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)), _mm_loadu_ps(high + 4), 1);
  }
  LOWRANK_UNROLL
  for (int half = 0; half < 2; half++) {
    const __m256* four = r + 4 * half;
    const __m256 a = _mm256_unpacklo_ps(four[0], four[1]), b = _mm256_unpackhi_ps(four[0], four[1]);
    const __m256 c = _mm256_unpacklo_ps(four[2], four[3]), d = _mm256_unpackhi_ps(four[2], four[3]);
    const __m256 columns[4] = {_mm256_shuffle_ps(a, c, 0x44), _mm256_shuffle_ps(a, c, 0xee),
                               _mm256_shuffle_ps(b, d, 0x44), _mm256_shuffle_ps(b, d, 0xee)};
    LOWRANK_UNROLL
    for (int i = 0; i < 4; i++) {
      const int unit = 4 * half + i;
      if (unit < written) _mm256_storeu_ps(reinterpret_cast<float*>(to + unit * stride), columns[i]);
    }
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
#elif defined(__AVX2__)
  static const uint32_t zeros[16] = {};
  const uint32_t* lines[16];
  uint32_t copies[16][16];
  for (int i = 0; i < 16; i++) {
    lines[i] = rows[i] ? static_cast<const uint32_t*>(rows[i]) + offset : zeros;
    if (units == 16 || !rows[i]) continue;
    std::memcpy(copies[i], lines[i], static_cast<size_t>(units) * 4);
    std::memset(copies[i] + units, 0, static_cast<size_t>(16 - units) * 4);
    lines[i] = copies[i];
  }
  for (int unit = 0; unit < written; unit += 8) {
    for (int row = 0; row < 16; row += 8) {
      if (written - unit >= 8) transpose8(lines + row, unit, 8, to + unit * stride + row, stride);
      else transpose8(lines + row, unit, written - unit, to + unit * stride + row, stride);
    }
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
