// Sums across the lanes of several vectors at once, in the same order for any number of them. Under AVX-512 that is
// ../sum-lanes.h's; elsewhere neighbors first, then pairs, then halves.
#pragma once
#include <algorithm>

#include "../sum-lanes.h"
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

#if defined(__AVX512F__)

/** Lane i of the first half: the sum of the lanes of v[i]. As sumsOfLanes16. */
inline __attribute__((always_inline)) __m512 sumsOfLanes8(const __m512 (&v)[8]) {
  __m512 t[4];
  LOWRANK_UNROLL
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  }
  LOWRANK_UNROLL
  for (int i = 0; i < 2; i++) {
    const __m512d x = _mm512_castps_pd(t[2 * i]), y = _mm512_castps_pd(t[2 * i + 1]);
    t[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  const __m512 both =
      _mm512_add_ps(_mm512_shuffle_f32x4(t[0], t[1], 0x88), _mm512_shuffle_f32x4(t[0], t[1], 0xdd));
  return _mm512_add_ps(_mm512_shuffle_f32x4(both, both, 0x88), _mm512_shuffle_f32x4(both, both, 0xdd));
}

/** to[i] = the sum of the lanes of v[i]. */
template <int N>
inline __attribute__((always_inline)) void sumsOfLanes(const Vf (&v)[N], float* to) {
  int i = 0;
  LOWRANK_UNROLL
  for (; i + 8 < N; i += 16) {
    __m512 all[16];
    LOWRANK_UNROLL
    for (int k = 0; k < 16; k++) all[k] = i + k < N ? reinterpret_cast<__m512>(v[i + k]) : _mm512_setzero_ps();
    const int count = N - i < 16 ? N - i : 16;
    _mm512_mask_storeu_ps(to + i, static_cast<__mmask16>((1u << count) - 1), sumsOfLanes16(all));
  }
  if (N - i > 2) {
    __m512 all[8];
    LOWRANK_UNROLL
    for (int k = 0; k < 8; k++) all[k] = i + k < N ? reinterpret_cast<__m512>(v[i + k]) : _mm512_setzero_ps();
    _mm512_mask_storeu_ps(to + i, static_cast<__mmask16>((1u << (N - i)) - 1), sumsOfLanes8(all));
  } else {
    LOWRANK_UNROLL
    for (; i < N; i++) to[i] = sumOfLanes(reinterpret_cast<__m512>(v[i]));
  }
}

#elif defined(__AVX2__)

/** Lane i: the sum of the lanes of v[i]. */
inline __attribute__((always_inline)) __m256 sumsOfLanes8(const __m256 (&v)[8]) {
  const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

/** to[i] = the sum of the lanes of v[i]. */
template <int N>
inline __attribute__((always_inline)) void sumsOfLanes(const Vf (&v)[N], float* to) {
  LOWRANK_UNROLL
  for (int i = 0; i < N; i += 8) {
    __m256 all[8];
    LOWRANK_UNROLL
    for (int k = 0; k < 8; k++) all[k] = i + k < N ? reinterpret_cast<__m256>(v[i + k]) : _mm256_setzero_ps();
    float totals[8];
    _mm256_storeu_ps(totals, sumsOfLanes8(all));
    std::copy_n(totals, N - i < 8 ? N - i : 8, to + i);
  }
}

#else

/** to[i] = the sum of the lanes of v[i]. */
template <int N>
inline __attribute__((always_inline)) void sumsOfLanes(const Vf (&v)[N], float* to) {
  static_assert(kLanes == 4);
#if defined(__aarch64__)
  const auto lanes = [&](int i) { return i < N ? reinterpret_cast<float32x4_t>(v[i]) : vdupq_n_f32(0); };
  LOWRANK_UNROLL
  for (int i = 0; i < N; i += 4) {
    const float32x4_t totals =
        vpaddq_f32(vpaddq_f32(lanes(i), lanes(i + 1)), vpaddq_f32(lanes(i + 2), lanes(i + 3)));
    float four[4];
    vst1q_f32(four, totals);
    std::copy_n(four, N - i < 4 ? N - i : 4, to + i);
  }
#else
  LOWRANK_UNROLL
  for (int i = 0; i < N; i++) to[i] = (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
#endif
}

#endif

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
