// Sums across the lanes of 16 vectors at once, a third of the steps of 16 sums one by one; and of one vector in the same
// order, so that a sum has the same bits in any company.
#pragma once
#include "isa.h"

#if defined(__AVX512F__)
#include <immintrin.h>

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** Lane i: the sum of the lanes of v[i]. */
inline __attribute__((always_inline)) __m512 sumsOfLanes16(const __m512 (&v)[16]) {
  __m512 t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {  // pairs: every quarter holds two halves of each
    t[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {  // fours: every quarter holds its own sum of each
    const __m512d x = _mm512_castps_pd(t[2 * i]), y = _mm512_castps_pd(t[2 * i + 1]);
    t[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) {  // now the quarters
    const __m512 x = t[2 * i], y = t[2 * i + 1];
    t[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
  }
  return _mm512_add_ps(_mm512_shuffle_f32x4(t[0], t[1], 0x88), _mm512_shuffle_f32x4(t[0], t[1], 0xdd));
}

/** The sum of the lanes of v, as sumsOfLanes16 adds them: within quarters, then neighboring quarters. */
inline __attribute__((always_inline)) float sumOfLanes(__m512 v) {
  v = _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e));
  v = _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
  v = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
  return _mm512_cvtss_f32(_mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e)));
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
#endif
