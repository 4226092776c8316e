// Dot products of a few rows of a stored weight with a few rows of x that is rounded to bf16, as the precision bf16
// rounds it for larger products too: two products a lane and step (VDPBF16PS), so that decoding 4 bits keeps up with
// reading them. Which weights come here: vector-dots.h. Not here: rows of x in f32 (vector-dots.h).
#pragma once
#include "../sum-lanes.h"
#include "rows.h"
#include "scales.h"
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** Rows of a weight whose sums are kept together: the sum of row r and x[t] lies at t * kDotBlock + r. */
constexpr int kDotBlock = 16;

#if defined(__AVX512F__)
/** sums[t * kDotBlock + r] = the sum of the lanes of v[r][t]. */
template <int R, int T>
inline void storeSums(const __m512 (&v)[R][T], float* sums) {
  if constexpr (R * T <= 4 || R * T > 16) {
    LOWRANK_UNROLL
    for (int r = 0; r < R; r++) {
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) sums[t * kDotBlock + r] = sumOfLanes(v[r][t]);
    }
  } else {
    __m512 all[16];
    LOWRANK_UNROLL
    for (int i = 0; i < 16; i++) all[i] = i < R * T ? v[i % R][i / R] : _mm512_setzero_ps();
    alignas(64) float totals[16];
    _mm512_store_ps(totals, sumsOfLanes16(all));
    LOWRANK_UNROLL
    for (int i = 0; i < R * T; i++) sums[i / R * kDotBlock + i % R] = totals[i];
  }
}
#endif

/** Elements that splitToBf16 treats as one: those at even places first, then those at odd places. */
constexpr int64_t kHalfSplit = 64;

/** As narrowToBf16; within each 64 the elements at even places come first. n a multiple of 64. */
inline void splitToBf16(const float* x, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; i += kHalfSplit) {
    for (int64_t k = 0; k < kHalfSplit / 2; k++) {
      to[i + k] = toBf16(x[i + 2 * k]);
      to[i + kHalfSplit / 2 + k] = toBf16(x[i + 2 * k + 1]);
    }
  }
}

#if defined(__AVX512BF16__)

/** Bytes of a weight asked for ahead: the processor foresees no further than the end of a page. */
constexpr int64_t kHalfReadAhead = 1024;

inline __m512bh loadHalves(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }

/**
 * w . x over n elements, summed as halfDots sums. In half registers: then lines are asked for one by one, and memory is
 * read a fifth faster than with loads of whole lines (measured on Zen 4), while arithmetic still keeps up with it.
 */
inline float halfDot(const uint16_t* w, const uint16_t* x, int64_t n) {
  constexpr int kQuarters = 4;  // two of them stand for one chain of halfDots
  const auto quarter = [](const uint16_t* p) {
    return (__m256bh)_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  };
  __m256 partial[kQuarters];
  LOWRANK_UNROLL
  for (int c = 0; c < kQuarters; c++) partial[c] = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + kLanes * kQuarters <= n; i += kLanes * kQuarters) {
    LOWRANK_UNROLL
    for (int c = 0; c < kQuarters; c++) {
      const int64_t at = i + c * kLanes;
      partial[c] = _mm256_dpbf16_ps(partial[c], quarter(w + at), quarter(x + at));
    }
  }
  for (; i < n; i += 2 * kLanes) {
    LOWRANK_UNROLL
    for (int c = 0; c < 2; c++) {
      const int64_t at = i + c * kLanes, left = n - at;
      const auto valid = static_cast<__mmask16>(left >= kLanes ? 0xffff : left <= 0 ? 0 : (1u << left) - 1);
      partial[c] = _mm256_dpbf16_ps(partial[c], (__m256bh)_mm256_maskz_loadu_epi16(valid, w + at),
                                    (__m256bh)_mm256_maskz_loadu_epi16(valid, x + at));
    }
  }
  const __m256 low = _mm256_add_ps(partial[0], partial[2]), high = _mm256_add_ps(partial[1], partial[3]);
  return sumOfLanes(_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1));
}

/**
 * sums[t * kDotBlock + r] = w[r] . x[t] over n elements; rows of w are wStride apart, those of x xStride. The same chains
 * of sums for any R and T.
 */
template <int R, int T>
void halfDots(const uint16_t* w, int64_t wStride, const uint16_t* x, int64_t xStride, int64_t n, float* sums) {
  if constexpr (R == 1 && T == 1) {
    sums[0] = halfDot(w, x, n);
    return;
  }
  constexpr int kHalves = 2 * kLanes, kChains = 2;
  __m512 partial[R][T][kChains];
  LOWRANK_UNROLL
  for (int r = 0; r < R; r++) {
    LOWRANK_UNROLL
    for (int t = 0; t < T; t++) {
      LOWRANK_UNROLL
      for (int c = 0; c < kChains; c++) partial[r][t][c] = _mm512_setzero_ps();
    }
  }
  int64_t i = 0;
  for (; i + kHalves * kChains <= n; i += kHalves * kChains) {
    LOWRANK_UNROLL
    for (int c = 0; c < kChains; c++) {
      __m512bh weight[R];
      LOWRANK_UNROLL
      for (int r = 0; r < R; r++) {
        const uint16_t* at = w + r * wStride + i + c * kHalves;
        if constexpr (R > 1) __builtin_prefetch(at + R * wStride);  // the rows that follow
        weight[r] = loadHalves(at);
      }
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) {
        const __m512bh here = loadHalves(x + t * xStride + i + c * kHalves);
        LOWRANK_UNROLL
        for (int r = 0; r < R; r++) partial[r][t][c] = _mm512_dpbf16_ps(partial[r][t][c], weight[r], here);
      }
    }
  }
  for (; i < n; i += kHalves) {
    const auto valid = static_cast<__mmask32>(n - i >= kHalves ? ~0u : (1u << (n - i)) - 1);
    LOWRANK_UNROLL
    for (int r = 0; r < R; r++) {
      const auto weight = (__m512bh)_mm512_maskz_loadu_epi16(valid, w + r * wStride + i);
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) {
        const auto here = (__m512bh)_mm512_maskz_loadu_epi16(valid, x + t * xStride + i);
        partial[r][t][0] = _mm512_dpbf16_ps(partial[r][t][0], weight, here);
      }
    }
  }
  __m512 total[R][T];
  LOWRANK_UNROLL
  for (int r = 0; r < R; r++) {
    LOWRANK_UNROLL
    for (int t = 0; t < T; t++) total[r][t] = _mm512_add_ps(partial[r][t][0], partial[r][t][1]);
  }
  storeSums<R, T>(total, sums);
}

/**
 * sums[t * kDotBlock + r] = rows row + r of a 4-bit weight . x[t], x through splitToBf16. The codebook is rounded to
 * bf16; a block's sum is scaled, not its elements.
 */
template <int R, int T>
void quantizedHalfDots(const Weight& w, int64_t row, const uint16_t* x, float* sums) {
  const Scales scales(w);
  const int64_t blocks = w.cols / w.blockSize;
  const auto entries = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(w.codebook));
  const __m512i codebook = _mm512_broadcast_i64x4(entries);  // 32 entries: bit 4 of an index does not matter
  const auto* codes = static_cast<const uint8_t*>(w.data) + row * w.cols / 2;
  __m512 total[R][T];
  LOWRANK_UNROLL
  for (int r = 0; r < R; r++) {
    LOWRANK_UNROLL
    for (int t = 0; t < T; t++) total[r][t] = _mm512_setzero_ps();
  }
  for (int64_t b = 0; b < blocks; b++) {
    __m512 sum[R][T];
    LOWRANK_UNROLL
    for (int r = 0; r < R; r++) {
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) sum[r][t] = _mm512_setzero_ps();
    }
    for (int64_t i = b * w.blockSize; i < (b + 1) * w.blockSize; i += kHalfSplit) {
      LOWRANK_UNROLL
      for (int r = 0; r < R; r++) {
        const uint8_t* at = codes + (r * w.cols + i) / 2;
        __builtin_prefetch(at + kHalfReadAhead);
        const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
        const auto even = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), codebook);
        const auto odd = (__m512bh)_mm512_permutexvar_epi16(words, codebook);
        LOWRANK_UNROLL
        for (int t = 0; t < T; t++) {
          const uint16_t* here = x + t * w.cols + i;
          sum[r][t] = _mm512_dpbf16_ps(sum[r][t], even, loadHalves(here));
          sum[r][t] = _mm512_dpbf16_ps(sum[r][t], odd, loadHalves(here + kHalfSplit / 2));
        }
      }
    }
    LOWRANK_UNROLL
    for (int r = 0; r < R; r++) {
      const __m512 scale = _mm512_set1_ps(scales[(row + r) * blocks + b]);
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) total[r][t] = _mm512_fmadd_ps(scale, sum[r][t], total[r][t]);
    }
  }
  storeSums<R, T>(total, sums);
}

#endif

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
