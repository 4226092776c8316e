// Dropout: Philox 4x32-10 words of (seed, stream, element), as dropoutKeeps in src/util/rng.ts, bit for bit.
// Source: Salmon et al. 2011.
#pragma once
#include "gemm.h"
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

constexpr uint64_t kPhiloxM0 = 0xd2511f53, kPhiloxM1 = 0xcd9e8d57;
constexpr uint32_t kPhiloxW0 = 0x9e3779b9, kPhiloxW1 = 0xbb67ae85;

/** The words of elements 4 * block .. 4 * block + 3. */
inline void philoxBlock(uint64_t block, const Dropout& d, uint32_t (&out)[4]) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = d.stream, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(d.seed), k1 = static_cast<uint32_t>(d.seed >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = kPhiloxM0 * c0, p1 = kPhiloxM1 * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

#if defined(__AVX512F__)
/** The words of 32 elements from 4 * block on, in order: `low` the first 16, `high` the others. */
inline void philox32(uint64_t block, const Dropout& d, __m512i& low, __m512i& high) {
  // Eight blocks, one 64-bit lane each, of which only the low half counts as a word.
  const __m512i index = _mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(block)),
                                         _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
  const __m512i m0 = _mm512_set1_epi64(static_cast<int64_t>(kPhiloxM0));
  const __m512i m1 = _mm512_set1_epi64(static_cast<int64_t>(kPhiloxM1));
  __m512i c0 = index, c1 = _mm512_srli_epi64(index, 32), c2 = _mm512_set1_epi64(d.stream), c3 = _mm512_setzero_si512();
  uint32_t k0 = static_cast<uint32_t>(d.seed), k1 = static_cast<uint32_t>(d.seed >> 32);
  for (int round = 0; round < 10; round++) {
    const __m512i p0 = _mm512_mul_epu32(m0, c0), p1 = _mm512_mul_epu32(m1, c2);
    const __m512i n0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c1, _mm512_set1_epi64(k0), 0x96);
    c2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c3, _mm512_set1_epi64(k1), 0x96);
    c0 = n0;
    c1 = p1;
    c3 = p0;
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  const __m512i wordMask = _mm512_set1_epi64(0xffffffff);
  const __m512i first = _mm512_or_si512(_mm512_and_si512(c0, wordMask), _mm512_slli_epi64(c1, 32));
  const __m512i second = _mm512_or_si512(_mm512_and_si512(c2, wordMask), _mm512_slli_epi64(c3, 32));
  low = _mm512_permutex2var_epi64(first, _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), second);
  high = _mm512_permutex2var_epi64(first, _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4), second);
}
#endif

/** to[i] = element `first + i` kept ? from[i] * keptScale : 0, plus to[i] before when Add. */
template <bool Add>
inline void applyDropout(const float* from, int64_t first, int64_t n, const Dropout& d, float* to) {
  int64_t i = 0;
  auto upTo = [&](int64_t end) {
    while (i < end) {
      uint32_t words[4];
      const int64_t element = first + i;
      philoxBlock(static_cast<uint64_t>(element) >> 2, d, words);
      for (int64_t lane = element & 3; lane < 4 && i < end; lane++, i++) {
        const float value = words[lane] >= d.threshold ? from[i] * d.keptScale : 0.0f;
        to[i] = Add ? to[i] + value : value;
      }
    }
  };
#if defined(__AVX512F__)
  const int64_t head = -first & 3;
  upTo(head < n ? head : n);
  const __m512i threshold = _mm512_set1_epi32(static_cast<int32_t>(d.threshold));
  const __m512 kept = _mm512_set1_ps(d.keptScale);
  for (; i + 32 <= n; i += 32) {
    __m512i words[2];
    philox32(static_cast<uint64_t>(first + i) >> 2, d, words[0], words[1]);
    for (int half = 0; half < 2; half++) {
      const __mmask16 keep = _mm512_cmpge_epu32_mask(words[half], threshold);
      __m512 value = _mm512_maskz_mul_ps(keep, _mm512_loadu_ps(from + i + 16 * half), kept);
      if (Add) value = _mm512_add_ps(value, _mm512_loadu_ps(to + i + 16 * half));
      _mm512_storeu_ps(to + i + 16 * half, value);
    }
  }
#endif
  upTo(n);
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
