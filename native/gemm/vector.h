// Vectors of f32 in the widest registers of this instruction set, through the compiler's vector types, and the
// 16-bit conversions. Not here: loops over matrices.
#pragma once
#include <cstdint>
#include <cstring>

#include "../isa.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__clang__)
#define LOWRANK_UNROLL _Pragma("clang loop unroll(full)")
#define LOWRANK_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define LOWRANK_UNROLL _Pragma("GCC unroll 32")
#define LOWRANK_UNROLL_4 _Pragma("GCC unroll 4")
#endif

namespace lowrank::LOWRANK_ISA_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vf __attribute__((vector_size(kLanes * 4), may_alias));
typedef float UnalignedVf __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vf load(const float* p) { return *reinterpret_cast<const UnalignedVf*>(p); }
inline void store(float* p, Vf v) { *reinterpret_cast<UnalignedVf*>(p) = v; }
/** Not `Vf{} + value`: adding zero is an operation (of -0 it makes 0), and it would cost one in five. */
inline Vf splat(float value) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vf>(_mm512_set1_ps(value));
#elif defined(__AVX2__)
  return reinterpret_cast<Vf>(_mm256_set1_ps(value));
#else
  return Vf{value, value, value, value};
#endif
}

/** a * b + c, in one rounding wherever the machine has it: of the plain expression compilers make either. */
inline Vf multiplyAdd(Vf a, Vf b, Vf c) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vf>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b),
                                              reinterpret_cast<__m512>(c)));
#elif defined(__FMA__)
  return reinterpret_cast<Vf>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b),
                                              reinterpret_cast<__m256>(c)));
#elif defined(__aarch64__)
  return reinterpret_cast<Vf>(vfmaq_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a),
                                        reinterpret_cast<float32x4_t>(b)));
#else
  return a * b + c;
#endif
}

/** The first n lanes, zeros behind; reads nothing beyond. */
inline Vf loadFirst(const float* p, int n) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vf>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
#else
  Vf v{};
  for (int i = 0; i < n; i++) v[i] = p[i];
  return v;
#endif
}

inline void storeFirst(float* p, Vf v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), reinterpret_cast<__m512>(v));
#else
  for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}

inline float sumLanes(Vf v) {
  float lanes[kLanes];
  std::memcpy(lanes, &v, sizeof v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

inline float fromBf16(uint16_t bits) {
  const uint32_t word = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

/** Nearest, ties to even; NaN stays NaN. */
inline uint16_t toBf16(float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  if ((word & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(word >> 16 | 0x40);
  return static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

inline float roundToBf16(float value) { return fromBf16(toBf16(value)); }

inline void widenBf16(const uint16_t* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = fromBf16(from[i]);
}

/** to = bf16(from * factor). */
inline void narrowToBf16(const float* from, float factor, uint16_t* to, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512BF16__)
  const __m512 f = _mm512_set1_ps(factor);
  constexpr int64_t kAhead = 1024;  // a page: the hardware's own prefetching ends at each
  for (; i + 32 <= n; i += 32) {
    __builtin_prefetch(from + i + kAhead);
    __builtin_prefetch(from + i + kAhead + 16);
    const __m512 low = _mm512_mul_ps(_mm512_loadu_ps(from + i), f);
    const __m512 high = _mm512_mul_ps(_mm512_loadu_ps(from + i + 16), f);
    _mm512_storeu_si512(to + i, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
  while (i < n) {  // rows of adapters are short
    const auto mask = static_cast<__mmask16>(n - i >= 16 ? 0xffff : (1u << (n - i)) - 1);
    const __m512 some = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, from + i), f);
    _mm256_mask_storeu_epi16(to + i, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(some)));
    i += 16;
  }
#else
  for (; i < n; i++) to[i] = toBf16(from[i] * factor);
#endif
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
