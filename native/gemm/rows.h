// Reads pieces of the rows of a stored weight as the element type a product works in: f32, f32 rounded to bf16, or
// bf16. This is where stored formats end: packing sees plain rows. Quantised formats: quant/ in TypeScript.
#pragma once
#include <algorithm>
#include <type_traits>

#include "blocks.h"
#include "gemm.h"
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** Element types of products. RoundedF32 stands in for bf16 where no bf16 instructions exist: same values. */
struct F32 {
  using Type = float;
  static Type convert(float value) { return value; }
};
struct RoundedF32 {
  using Type = float;
  static Type convert(float value) { return roundToBf16(value); }
};
struct Bf16 {
  using Type = uint16_t;
  static Type convert(float value) { return toBf16(value); }
};

/** to = element(from * factor). */
template <typename E>
inline void convertRow(const float* from, float factor, typename E::Type* to, int64_t n) {
  if constexpr (std::is_same_v<E, Bf16>) {
    narrowToBf16(from, factor, to, n);
  } else {
    for (int64_t i = 0; i < n; i++) to[i] = E::convert(from[i] * factor);
  }
}

inline uint8_t codeAt(const uint8_t* codes, int64_t element) {
  const uint8_t byte = codes[element >> 1];
  return element & 1 ? byte & 15 : byte >> 4;
}

#if defined(__AVX512BW__)
/** 16-bit lane i = code of element i, for 32 elements from 16 bytes; in odd lanes bits 4-7 hold the even code. */
inline __m512i expandCodes(const uint8_t* bytes) {
  const __m512i words = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  return _mm512_or_si512(_mm512_srli_epi32(words, 4), _mm512_slli_epi32(words, 16));
}
#endif

/** `n` elements from an even `element` on, all of one block: to[i] = table[code]. table: codebook * scale. */
template <typename E>
inline void decodeRun(const uint8_t* codes, int64_t element, int64_t n, const float* codebook, float scale,
                      typename E::Type* to) {
  alignas(64) typename E::Type table[16];
  int64_t i = 0;
#if defined(__AVX512BW__)
  const uint8_t* bytes = codes + (element >> 1);
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<E, Bf16>) {
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(codebook), _mm512_set1_ps(scale));
    const __m256i entries = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(scaled));
    const __m512i lookup = _mm512_broadcast_i64x4(entries);  // 32 entries: bit 4 of an index does not matter
    for (; i + 32 <= n; i += 32, bytes += 16) {
      _mm512_storeu_si512(to + i, _mm512_permutexvar_epi16(expandCodes(bytes), lookup));
    }
    if (i == n) return;
    _mm256_store_si256(reinterpret_cast<__m256i*>(table), entries);
  }
#endif
  if constexpr (!std::is_same_v<E, Bf16>) {
    for (int k = 0; k < 16; k++) table[k] = E::convert(codebook[k] * scale);
    const __m512 lookup = _mm512_load_ps(table);
    for (; i + 32 <= n; i += 32, bytes += 16) {
      const __m512i words = expandCodes(bytes);
      const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(words));
      const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(words, 1));
      _mm512_storeu_ps(to + i, _mm512_permutexvar_ps(low, lookup));
      _mm512_storeu_ps(to + i + 16, _mm512_permutexvar_ps(high, lookup));
    }
  }
#else
  for (int k = 0; k < 16; k++) table[k] = E::convert(codebook[k] * scale);
#endif
#if defined(__AVX2__) && !defined(__AVX512BW__)
  if constexpr (!std::is_same_v<E, Bf16>) {
    const uint8_t* bytes = codes + (element >> 1);
    const __m256 lowHalf = _mm256_load_ps(table), highHalf = _mm256_load_ps(table + 8);
    const __m256i shifts = _mm256_set_epi32(24, 28, 16, 20, 8, 12, 0, 4);
    for (; i + 8 <= n; i += 8, bytes += 4) {
      int32_t word;
      std::memcpy(&word, bytes, 4);
      const __m256i code = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(word), shifts), _mm256_set1_epi32(15));
      const __m256 isHigh = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));  // bit 3 to the sign
      const __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(lowHalf, code),
                                            _mm256_permutevar8x32_ps(highHalf, code), isHigh);
      _mm256_storeu_ps(to + i, value);
    }
  }
#endif
  for (; i < n; i++) to[i] = table[codeAt(codes, element + i)];
}

template <typename E>
inline void decodeRow(const Weight& w, int64_t row, int64_t col, int64_t n, typename E::Type* to) {
  const auto* codes = static_cast<const uint8_t*>(w.data);
  int64_t element = row * w.cols + col;
  const int64_t end = element + n;
  const int64_t size = w.blockSize;
  const bool power = (size & (size - 1)) == 0;
  const int shift = power ? __builtin_ctzll(static_cast<uint64_t>(size)) : 0;
  while (element < end) {
    const int64_t block = power ? element >> shift : element / size;
    const float scale = w.scale(block);
    const int64_t stop = std::min(end, (block + 1) * size);
    if (element & 1) {
      *to++ = E::convert(w.codebook[codeAt(codes, element)] * scale);
      if (++element == stop) continue;
    }
    decodeRun<E>(codes, element, stop - element, w.codebook, scale, to);
    to += stop - element;
    element = stop;
  }
}

/**
 * Elements [col, col + n) of a row. Points into the weight when it is stored as asked for and `padded` == n;
 * otherwise fills `buffer` and puts zeros from n up to `padded`.
 */
template <typename E>
inline const typename E::Type* readRow(const Weight& w, int64_t row, int64_t col, int64_t n, int64_t padded,
                                       typename E::Type* buffer) {
  using Type = typename E::Type;
  const int64_t first = row * w.cols + col;
  switch (w.kind) {
    case Weight::Kind::F32: {
      const float* from = static_cast<const float*>(w.data) + first;
      if constexpr (std::is_same_v<E, F32>) {
        if (padded == n) return from;
      }
      convertRow<E>(from, 1.0f, buffer, n);
      break;
    }
    case Weight::Kind::BF16: {
      const uint16_t* from = static_cast<const uint16_t*>(w.data) + first;
      if constexpr (std::is_same_v<E, Bf16>) {
        if (padded == n) return from;
        std::copy(from, from + n, buffer);
      } else {
        widenBf16(from, buffer, n);
      }
      break;
    }
    case Weight::Kind::Quantized:
      decodeRow<E>(w, row, col, n, buffer);
      break;
    default:
      eachDecoded(w, row, col, n, [&](const float* values, int64_t count, int64_t at) {
        convertRow<E>(values, 1.0f, buffer + at, count);
      });
  }
  std::fill(buffer + n, buffer + padded, Type{});
  return buffer;
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
