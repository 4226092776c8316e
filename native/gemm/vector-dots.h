// Dot products of a few rows of a stored weight with a few rows of x. Rows of both are taken together, so that each
// weight is read from memory once and each x from the cache a few times. Which rows, and what becomes of the sums:
// vector.cc. 4-bit weights are multiplied as they are decoded, in registers, where the instruction set looks up 16
// entries at once; elsewhere they go through a small buffer. Here: x in f32; in bf16: half-dots.h.
#pragma once
#include <algorithm>
#include <type_traits>

#include "half-dots.h"
#include "rows.h"
#include "scales.h"
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** Registers for sums; the rest hold what is being multiplied. */
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSumRegisters = 24;
#else
constexpr int kSumRegisters = 12;
#endif
/** Registers of sums that every product of two rows has: its bits do not depend on how many products are made together. */
constexpr int kChains = 2;

/**
 * Rows of a weight taken together with T rows of x. For one row of x reading the weight is all that counts, and memory is
 * read fastest in one line.
 */
constexpr int dotRows(int T) {
  if (T == 1 || (T == 2 && kSumRegisters == 12)) return 1;
  return 4 * T * kChains <= kSumRegisters ? 4 : 2 * T * kChains <= kSumRegisters ? 2 : 1;
}
/** Most rows of x that are taken together when there are no more, so that the weight is read in one line; and of many. */
constexpr int kMostAlone = kSumRegisters == 24 ? 8 : 6, kMostTogether = 6;

inline Vf loadWide(const float* p) { return load(p); }
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
inline Vf loadWideFirst(const float* p, int n) { return loadFirst(p, n); }
inline Vf loadWideFirst(const uint16_t* p, int n) {
  uint16_t halves[kLanes] = {};
  std::memcpy(halves, p, static_cast<size_t>(n) * sizeof(uint16_t));
  return loadWide(halves);
}

/** sumLanes in registers. */
inline float addLanes(Vf v) {
#if defined(__AVX512F__)
  return sumOfLanes(reinterpret_cast<__m512>(v));
#else
  return sumLanes(v);
#endif
}

/** sums[t * kDotBlock + r] += w[r] . x[t] over n elements; rows of w and x are wStride and xStride apart. */
template <int R, int T, typename Element>
void denseDots(const Element* w, int64_t wStride, const float* x, int64_t xStride, int64_t n, float* sums) {
  Vf partial[R][T][kChains] = {};
  int64_t i = 0;
  for (; i + kLanes * kChains <= n; i += kLanes * kChains) {
    LOWRANK_UNROLL
    for (int c = 0; c < kChains; c++) {
      Vf weight[R];
      LOWRANK_UNROLL
      for (int r = 0; r < R; r++) {
        const Element* at = w + r * wStride + i + c * kLanes;
        if constexpr (R > 1) __builtin_prefetch(at + R * wStride);  // the rows that follow
        weight[r] = loadWide(at);
      }
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) {
        const Vf here = load(x + t * xStride + i + c * kLanes);
        LOWRANK_UNROLL
        for (int r = 0; r < R; r++) partial[r][t][c] = multiplyAdd(weight[r], here, partial[r][t][c]);
      }
    }
  }
  for (; i < n; i += kLanes) {
    const int left = static_cast<int>(std::min<int64_t>(kLanes, n - i));
    LOWRANK_UNROLL
    for (int r = 0; r < R; r++) {
      const Vf weight = loadWideFirst(w + r * wStride + i, left);
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) {
        partial[r][t][0] = multiplyAdd(weight, loadFirst(x + t * xStride + i, left), partial[r][t][0]);
      }
    }
  }
  LOWRANK_UNROLL
  for (int r = 0; r < R; r++) {
    LOWRANK_UNROLL
    for (int t = 0; t < T; t++) {
      Vf total = partial[r][t][0];
      LOWRANK_UNROLL
      for (int c = 1; c < kChains; c++) total += partial[r][t][c];
      sums[t * kDotBlock + r] += addLanes(total);
    }
  }
}

/** Bytes of codes asked for ahead: x and codes together outgrow what the processor itself foresees. */
constexpr int64_t kReadAhead = 1024;

/** Elements that splitHalves treats as one: those at even places first, then those at odd places. */
constexpr int64_t kSplit = 32;

/** How rows of x are laid out for the rows of a weight. */
enum class Form : int {
  Plain,      // f32
  Split,      // f32, through splitHalves: for 4-bit weights multiplied as they are decoded
  Half,       // bf16
  HalfSplit,  // bf16, through splitToBf16: the same for bf16
  Count
};

/** The form of x that a weight's products need. In bf16 x is rounded where that is as fast as reading the weight. */
inline Form formFor(const Weight& w, Precision precision) {
#if defined(__AVX512BF16__)
  if (precision == Precision::BF16 && w.kind == Weight::Kind::BF16) return Form::Half;
  if (precision == Precision::BF16 && w.kind == Weight::Kind::Quantized && w.blockSize % kHalfSplit == 0 &&
      w.cols % w.blockSize == 0) {
    return Form::HalfSplit;
  }
#endif
#if defined(__AVX512F__)
  if (w.kind == Weight::Kind::Quantized && w.blockSize % kSplit == 0 && w.cols % w.blockSize == 0) return Form::Split;
#endif
  (void)w;
  (void)precision;
  return Form::Plain;
}

/** Puts the elements of each 32 in the order in which the high and the low halves of 16 bytes of codes come. */
inline void splitHalves(const float* x, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += kSplit) {
    for (int64_t k = 0; k < kSplit / 2; k++) {
      to[i + k] = x[i + 2 * k];
      to[i + kSplit / 2 + k] = x[i + 2 * k + 1];
    }
  }
}

#if defined(__AVX512F__)
/** sums[t * kDotBlock + r] = rows row + r of a 4-bit weight . x[t]. A block's sum is scaled once, not its elements. */
template <int R, int T>
void quantizedDots(const Weight& w, int64_t row, const float* splitX, float* sums) {
  const Scales scales(w);
  const int64_t blocks = w.cols / w.blockSize;
  const __m512 codebook = _mm512_loadu_ps(w.codebook);
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
    for (int64_t i = b * w.blockSize; i < (b + 1) * w.blockSize; i += kSplit) {
      LOWRANK_UNROLL
      for (int r = 0; r < R; r++) {
        const auto* at = reinterpret_cast<const __m128i*>(codes + (r * w.cols + i) / 2);
        __builtin_prefetch(reinterpret_cast<const char*>(at) + kReadAhead);
        // vpermps looks at the low four bits of each lane alone.
        const __m512i low = _mm512_cvtepu8_epi32(_mm_loadu_si128(at));
        const __m512 even = _mm512_permutexvar_ps(_mm512_srli_epi32(low, 4), codebook);
        const __m512 odd = _mm512_permutexvar_ps(low, codebook);
        LOWRANK_UNROLL
        for (int t = 0; t < T; t++) {
          const float* x = splitX + t * w.cols + i;
          sum[r][t] = _mm512_fmadd_ps(even, _mm512_loadu_ps(x), sum[r][t]);
          sum[r][t] = _mm512_fmadd_ps(odd, _mm512_loadu_ps(x + kSplit / 2), sum[r][t]);
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

/** The dots of R rows of a weight from `row` on with T rows of x in `form`. */
template <int R, int T>
void dots(const Weight& w, int64_t row, const void* x, Form form, float* sums) {
  const int64_t first = row * w.cols;
#if defined(__AVX512BF16__)
  const auto* halves = static_cast<const uint16_t*>(x);
  if (form == Form::HalfSplit) return quantizedHalfDots<R, T>(w, row, halves, sums);
  if (form == Form::Half) {
    return halfDots<R, T>(static_cast<const uint16_t*>(w.data) + first, w.cols, halves, w.cols, w.cols, sums);
  }
#endif
  const auto* floats = static_cast<const float*>(x);
#if defined(__AVX512F__)
  if (form == Form::Split) return quantizedDots<R, T>(w, row, floats, sums);
#endif
  (void)form;
  for (int t = 0; t < T; t++) std::fill_n(sums + t * kDotBlock, R, 0.0f);
  if (w.kind == Weight::Kind::F32) {
    return denseDots<R, T>(static_cast<const float*>(w.data) + first, w.cols, floats, w.cols, w.cols, sums);
  }
  denseDots<R, T>(static_cast<const uint16_t*>(w.data) + first, w.cols, floats, w.cols, w.cols, sums);
}

/** As blockDots, for T rows of x; `alone`: there are no others. */
template <int T>
void someDots(const Weight& w, int64_t row, int64_t rows, const void* x, Form form, bool alone, float* sums) {
  // What each row costs besides its elements counts in short rows; long ones are read fastest one by one, and so is bf16
  // that is used as it lies, when each of its rows has sums enough.
  constexpr int64_t kShortRow = 1024;
  constexpr int kTogether = T == 1 ? 4 : dotRows(T);
  const bool several = T == 1 ? form == Form::HalfSplit && w.cols <= kShortRow : !alone || form != Form::Half || T < 4;
  int64_t r = 0;
  if (several) {
    for (; r + kTogether <= rows; r += kTogether) dots<kTogether, T>(w, row + r, x, form, sums + r);
  }
  for (; r < rows; r++) dots<1, T>(w, row + r, x, form, sums + r);
}

/** Calls body(first, count as a constant, alone) for stretches of t rows of x: a function of t alone. */
template <typename Body>
inline void eachStretch(int64_t t, const Body& body) {
  const int64_t stretches = t <= kMostAlone ? 1 : (t + kMostTogether - 1) / kMostTogether;
  for (int64_t i = 0; i < stretches; i++) {
    const int64_t first = t * i / stretches;
    const bool alone = stretches == 1;
    switch (t * (i + 1) / stretches - first) {
      case 1: body(first, std::integral_constant<int, 1>(), alone); break;
      case 2: body(first, std::integral_constant<int, 2>(), alone); break;
      case 3: body(first, std::integral_constant<int, 3>(), alone); break;
      case 4: body(first, std::integral_constant<int, 4>(), alone); break;
      case 5: body(first, std::integral_constant<int, 5>(), alone); break;
      case 6: body(first, std::integral_constant<int, 6>(), alone); break;
      case 7: body(first, std::integral_constant<int, 7>(), alone); break;
      default: body(first, std::integral_constant<int, 8>(), alone); break;
    }
  }
}

/** As blockDots, for R rows of a 4-bit weight or one in blocks, which go through a buffer. */
template <int R>
void decodedDots(const Weight& w, int64_t row, const float* x, int64_t t, float* sums) {
  constexpr int64_t kPiece = 1024;
  alignas(64) float pieces[R * kPiece];
  for (int64_t i = 0; i < t; i++) std::fill_n(sums + i * kDotBlock, R, 0.0f);
  for (int64_t k = 0; k < w.cols; k += kPiece) {
    const int64_t n = std::min(kPiece, w.cols - k);
    for (int r = 0; r < R; r++) readRow<F32>(w, row + r, k, n, n, pieces + r * kPiece);
    eachStretch(t, [&](int64_t first, auto count, bool) {
      constexpr int T = decltype(count)::value, kStep = R == 1 ? 1 : T == 1 ? R : dotRows(T);
      for (int r = 0; r < R; r += kStep) {
        denseDots<kStep, T>(pieces + r * kPiece, kPiece, x + first * w.cols + k, w.cols, n, sums + first * kDotBlock + r);
      }
    });
  }
}

/**
 * sums[i * kDotBlock + r] = row `row + r` of the weight . x[i] for `rows` rows, at most kDotBlock, and all t of x: rows of
 * w.cols elements in `form`, which is formFor(w, ...). The bits of a sum do not depend on `rows` or t.
 */
inline void blockDots(const Weight& w, int64_t row, int64_t rows, const void* x, Form form, int64_t t, float* sums) {
  if ((w.kind == Weight::Kind::Quantized || isBlocks(w.kind)) && form == Form::Plain) {
    const auto* floats = static_cast<const float*>(x);
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) decodedDots<4>(w, row + r, floats, t, sums + r);
    for (; r < rows; r++) decodedDots<1>(w, row + r, floats, t, sums + r);
    return;
  }
  const int64_t rowBytes = w.cols * (form == Form::Half || form == Form::HalfSplit ? 2 : 4);
  eachStretch(t, [&](int64_t first, auto count, bool alone) {
    someDots<decltype(count)::value>(w, row, rows, static_cast<const char*>(x) + first * rowBytes, form, alone,
                                     sums + first * kDotBlock);
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
