// A thin layer over f32 vectors: as wide as the instruction set of this object (16 lanes under AVX-512, 8 under
// AVX2, else 4), written with the compiler's vector extensions and a handful of intrinsics. All of it has internal
// linkage, so that objects of different instruction sets never share a function. Needs strict floating point (no
// -ffast-math). Not here: exp and its kin (simd-math.h), products (kernels/tile-product.h).
#pragma once
#include <cstdint>
#include <cstring>

#include "isa.h"

#if defined(__x86_64__)
// GCC 12 takes the "undefined" operands inside its own AVX-512 intrinsics for mistakes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define LOWRANK_INLINE inline __attribute__((always_inline))

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));  // also a mask: lanes 0 or -1
typedef float Vec4 __attribute__((vector_size(16)));

LOWRANK_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

LOWRANK_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

LOWRANK_INLINE Vec broadcast(float x) { return x - Vec{}; }

/** The first n lanes (0 < n < kLanes) of p; the others are 0 and are not touched in memory. */
LOWRANK_INLINE Vec loadFirst(const float* p, int n) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  float lanes[kLanes] = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return load(lanes);
#endif
}

LOWRANK_INLINE void storeFirst(float* p, Vec v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
  float lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < n; i++) p[i] = lanes[i];
#endif
}

/** a * b + c; one rounding where the machine has it. */
LOWRANK_INLINE Vec multiplyAdd(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

/** The larger of each pair; b where either is NaN, so data that comes second keeps its NaN. */
LOWRANK_INLINE Vec maximum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (Vec)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}

/** The smaller of each pair; b where either is NaN. */
LOWRANK_INLINE Vec minimum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (Vec)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}

LOWRANK_INLINE Vec squareRoot(Vec v) {
#if defined(__AVX512F__)
  return (Vec)_mm512_sqrt_ps((__m512)v);
#elif defined(__AVX2__)
  return (Vec)_mm256_sqrt_ps((__m256)v);
#elif defined(__x86_64__)
  return (Vec)_mm_sqrt_ps((__m128)v);
#elif defined(__aarch64__)
  return (Vec)vsqrtq_f32((float32x4_t)v);
#else
  for (int i = 0; i < kLanes; i++) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

/** Sum of the lanes, by halves. */
LOWRANK_INLINE float sumLanes(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float lanes[kLanes];
  store(lanes, v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return lanes[0];
#endif
}

LOWRANK_INLINE float largestLane(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  float best = lanes[0];
  for (int i = 1; i < kLanes; i++) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

/** How eachVector's body reaches memory: whole vectors, or the lanes left over at the end. */
struct WholeVector {
  LOWRANK_INLINE Vec load(const float* p) const { return LOWRANK_ISA_NAMESPACE::load(p); }
  LOWRANK_INLINE void store(float* p, Vec v) const { LOWRANK_ISA_NAMESPACE::store(p, v); }
};
struct PartVector {
  int n;
  LOWRANK_INLINE Vec load(const float* p) const { return loadFirst(p, n); }
  LOWRANK_INLINE void store(float* p, Vec v) const { storeFirst(p, v, n); }
};

/** body(i, memory) for i = begin, begin + kLanes, ...; memory.load and .store handle the last, partial vector. */
template <class Body>
LOWRANK_INLINE void eachVector(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, WholeVector{});
  if (i < end) body(i, PartVector{static_cast<int>(end - i)});
}

LOWRANK_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
LOWRANK_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
/** a / b rounded up, and a rounded up to a multiple of b. */
LOWRANK_INLINE int64_t divideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
LOWRANK_INLINE int64_t roundUp(int64_t a, int64_t b) { return divideUp(a, b) * b; }

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
