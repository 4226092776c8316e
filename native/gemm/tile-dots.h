// Dot products of R rows of a weight with T rows of x, all sums in registers: the tile that products of few rows are made
// of. Every sum is one register, whose lanes are added in one order (lane-sums.h), so that its bits depend neither on R and T
// nor on what lies beside it. Here: the tile for f32, for bf16 weights widened beside f32, and for pairs of bf16
// (VDPBF16PS), which some cores make faster of f32 products. Not here: what weights are stored in (vector-dots.h, lookup.h).
#pragma once
#include <algorithm>

#include "lane-sums.h"
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** Rows of a weight whose sums are kept together: the sum of row r and x[t] lies at t * kDotBlock + r. */
constexpr int kDotBlock = 16;
/** Rows of x in a tile at most, and rows of a weight beside T of them: sums leave room for what is being multiplied. */
constexpr int kMostInputs = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int tileRows(int) { return 4; }
#else
constexpr int tileRows(int T) { return T <= 3 ? 4 : 2; }
#endif

inline Vf loadWide(const uint16_t* p) {
#if defined(__AVX512F__)
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return reinterpret_cast<Vf>(_mm512_slli_epi32(words, 16));
#elif defined(__AVX2__)
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return reinterpret_cast<Vf>(_mm256_slli_epi32(words, 16));
#else
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
  typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
  Halves halves;
  std::memcpy(&halves, p, sizeof halves);
  return reinterpret_cast<Vf>(__builtin_convertvector(halves, Words) << 16);
#endif
}
/** The first n lanes, zeros behind; reads nothing beyond. */
inline Vf loadWideFirst(const uint16_t* p, int n) {
  uint16_t halves[kLanes] = {};
  std::memcpy(halves, p, static_cast<size_t>(n) * sizeof(uint16_t));
  return loadWide(halves);
}

/** How a tile reads and multiplies: f32 by f32. Values are what lookup.h makes of codes, too. */
struct FloatDots {
  using Weight = float;
  using Input = float;
  using Value = Vf;
  static constexpr int kElements = kLanes;
  static constexpr bool kSplit = false;
  static Value weight(const Weight* p) { return load(p); }
  static Value weightFirst(const Weight* p, int n) { return loadFirst(p, n); }
  static Value input(const Input* p) { return load(p); }
  static Value inputFirst(const Input* p, int n) { return loadFirst(p, n); }
  static Vf add(Vf sum, Value a, Value b) { return multiplyAdd(a, b, sum); }
  static void put(Weight* p, Value value) { store(p, value); }
};

/** bf16 by f32. */
struct WideDots : FloatDots {
  using Weight = uint16_t;
  static Value weight(const Weight* p) { return loadWide(p); }
  static Value weightFirst(const Weight* p, int n) { return loadWideFirst(p, n); }
};

#if defined(__AVX512BF16__)
/** bf16 by bf16. */
struct HalfDots {
  using Weight = uint16_t;
  using Input = uint16_t;
  using Value = __m512bh;
  static constexpr int kElements = 2 * kLanes;
  static constexpr bool kSplit = false;
  static Value weight(const Weight* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static Value weightFirst(const Weight* p, int n) {
    return (__m512bh)_mm512_maskz_loadu_epi16(static_cast<__mmask32>(n >= kElements ? ~0u : (1u << n) - 1), p);
  }
  static Value input(const Input* p) { return weight(p); }
  static Value inputFirst(const Input* p, int n) { return weightFirst(p, n); }
  static Vf add(Vf sum, Value a, Value b) {
    return reinterpret_cast<Vf>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), a, b));
  }
  static void put(Weight* p, Value value) { _mm512_storeu_si512(p, (__m512i)value); }
};

/**
 * w . x over n elements with the bits that a tile gives. In half registers: then lines are asked for one by one, and memory
 * is read a fifth faster than with loads of whole lines (measured on Zen 4), while arithmetic still keeps up with it.
 */
inline float halfDot(const uint16_t* w, const uint16_t* x, int64_t n) {
  const auto quarter = [](const uint16_t* p) {
    return (__m256bh)_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  };
  __m256 low = _mm256_setzero_ps(), high = low;  // together a tile's sum
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    low = _mm256_dpbf16_ps(low, quarter(w + i), quarter(x + i));
    high = _mm256_dpbf16_ps(high, quarter(w + i + kLanes), quarter(x + i + kLanes));
  }
  if (i < n) {
    const auto rest = [&](const uint16_t* p, int64_t at) {
      const int64_t left = n - at;
      const auto valid = static_cast<__mmask16>(left >= kLanes ? 0xffff : left <= 0 ? 0 : (1u << left) - 1);
      return (__m256bh)_mm256_maskz_loadu_epi16(valid, p + at);
    };
    low = _mm256_dpbf16_ps(low, rest(w, i), rest(x, i));
    high = _mm256_dpbf16_ps(high, rest(w, i + kLanes), rest(x, i + kLanes));
  }
  return sumOfLanes(_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1));
}
#endif

/** Sums of a tile in the making. */
template <int R, int T>
struct TileSums {
  Vf partial[T * R] = {};  // row r of the weight and row t of x: t * R + r

  /** sums[t * kDotBlock + r] += the lanes. */
  __attribute__((always_inline)) void addTo(float* sums) const {
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
    alignas(64) float totals[T * R];
    sumsOfLanes<T * R>(partial, totals);
    LOWRANK_UNROLL
    for (int t = 0; t < T; t++) {
      float* to = sums + t * kDotBlock;
      if constexpr (R == 4) {
        *reinterpret_cast<Four*>(to) += *reinterpret_cast<const Four*>(totals + t * R);
      } else {
        LOWRANK_UNROLL
        for (int r = 0; r < R; r++) to[r] += totals[t * R + r];
      }
    }
  }
};

#if defined(__AVX512BF16__)
/**
 * bf16 by bf16 as two products in f32: the odd elements of a pair, then the even ones, which is what VDPBF16PS computes, to
 * the bit, where denormals count as zero. On Intel's cores that instruction is half as fast as these two (88 against 179
 * GFLOP/s). Weights are pairs where they are stored, or each 32 of a row as 16 odd and 16 even elements in f32.
 */
template <typename Stored>
struct SplitDots {
  using Weight = Stored;
  using Input = uint16_t;
  static constexpr bool kSplit = true;
  static constexpr int kElements = 2 * kLanes;

  static __m512i odd(__m512i pairs) { return _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))); }
  static __m512i even(__m512i pairs) { return _mm512_slli_epi32(pairs, 16); }
  static Vf half(__m512i pairs, bool isOdd) { return reinterpret_cast<Vf>(isOdd ? odd(pairs) : even(pairs)); }
  static __m512i pairs(const uint16_t* p, __mmask32 valid) {
    return valid == ~__mmask32{0} ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(valid, p);
  }
  /** 16 pairs as weights of f32. */
  static void put(float* p, __m512bh pairs) {
    store(p, half((__m512i)pairs, true));
    store(p + kLanes, half((__m512i)pairs, false));
  }

  template <int R, int T>
  static __attribute__((always_inline)) void step(const Weight* w, int64_t wStride, const Input* x, int64_t xStride,
                                                  __mmask32 valid, TileSums<R, T>& tile) {
    LOWRANK_UNROLL
    for (int part = 0; part < 2; part++) {
      const bool isOdd = part == 0;
      Vf weight[R];
      LOWRANK_UNROLL
      for (int r = 0; r < R; r++) {
        const Weight* at = w + r * wStride;
        if constexpr (sizeof(Weight) == 4) weight[r] = load(at + (isOdd ? 0 : kLanes));
        else weight[r] = half(pairs(at, valid), isOdd);
      }
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) {
        const Vf here = half(pairs(x + t * xStride, valid), isOdd);
        LOWRANK_UNROLL
        for (int r = 0; r < R; r++) tile.partial[t * R + r] = multiplyAdd(weight[r], here, tile.partial[t * R + r]);
      }
    }
  }

  /** As tileDots; of weights in f32 n is a multiple of 32. */
  template <int R, int T, bool Ahead>
  static __attribute__((always_inline)) void multiply(const Weight* w, int64_t wStride, const Input* x, int64_t xStride,
                                                      int64_t n, float* sums) {
    TileSums<R, T> tile;
    constexpr unsigned kZeroDenormals = 0x8040;  // results and operands
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | kZeroDenormals);
    int64_t i = 0;
    for (; i + kElements <= n; i += kElements) {
      if constexpr (Ahead) {
        for (int r = 0; r < R; r++) __builtin_prefetch(w + (r + R) * wStride + i);
      }
      step<R, T>(w + i, wStride, x + i, xStride, ~__mmask32{0}, tile);
    }
    if (i < n) step<R, T>(w + i, wStride, x + i, xStride, (__mmask32{1} << (n - i)) - 1, tile);
    // Sums are made here and not after the mode is what it was.
    LOWRANK_UNROLL
    for (int k = 0; k < R * T; k++) asm volatile("" : "+v"(tile.partial[k]));
    _mm_setcsr(before);
    LOWRANK_UNROLL
    for (int k = 0; k < R * T; k++) asm volatile("" : "+v"(tile.partial[k]));
    tile.addTo(sums);
  }
};
#endif

/**
 * sums[t * kDotBlock + r] += w[r] . x[t] over n elements; rows of w and x are wStride and xStride apart. `Ahead`: asks for
 * the rows of w that follow.
 */
template <typename Dots, int R, int T, bool Ahead>
void tileDots(const typename Dots::Weight* w, int64_t wStride, const typename Dots::Input* x, int64_t xStride, int64_t n,
              float* sums) {
  if constexpr (Dots::kSplit) {
    Dots::template multiply<R, T, Ahead>(w, wStride, x, xStride, n, sums);
  } else {
    TileSums<R, T> tile;
    int64_t i = 0;
    for (; i + Dots::kElements <= n; i += Dots::kElements) {
      typename Dots::Value weight[R];
      LOWRANK_UNROLL
      for (int r = 0; r < R; r++) {
        const auto* at = w + r * wStride + i;
        if constexpr (Ahead) __builtin_prefetch(at + R * wStride);
        weight[r] = Dots::weight(at);
      }
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) {
        const auto here = Dots::input(x + t * xStride + i);
        LOWRANK_UNROLL
        for (int r = 0; r < R; r++) tile.partial[t * R + r] = Dots::add(tile.partial[t * R + r], weight[r], here);
      }
    }
    if (i < n) {
      const int left = static_cast<int>(n - i);
      typename Dots::Value weight[R];
      LOWRANK_UNROLL
      for (int r = 0; r < R; r++) weight[r] = Dots::weightFirst(w + r * wStride + i, left);
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) {
        const auto here = Dots::inputFirst(x + t * xStride + i, left);
        LOWRANK_UNROLL
        for (int r = 0; r < R; r++) tile.partial[t * R + r] = Dots::add(tile.partial[t * R + r], weight[r], here);
      }
    }
    tile.addTo(sums);
  }
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
