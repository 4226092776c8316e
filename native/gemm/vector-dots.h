// Dot products of a few rows of a stored weight with a few rows of x. Rows of both are taken together, so that each
// weight is read from memory once and each x from the cache a few times. Which rows, and what becomes of the sums:
// vector.cc. 4-bit weights are multiplied as they are decoded, in registers, where the instruction set looks up 16
// entries at once; elsewhere they go through a small buffer. Here: x in f32; in bf16: half-dots.h.
#pragma once
#include <algorithm>

#include "half-dots.h"
#include "rows.h"
#include "scales.h"
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** Most rows of a weight that rowDots takes together. */
constexpr int kMostDotRows = 4;
/** Registers for sums; the rest hold what is being multiplied. */
constexpr int kSumRegisters = kLanes == 16 ? 16 : 8;

/**
 * Rows of a weight taken together with T rows of x, with `each` registers of sums for a pair. For one row of x reading
 * the weight is all that counts, and memory is read fastest in one line.
 */
constexpr int dotRows(int T, int each) {
  if (T == 1) return 1;
  return 4 * T * each <= kSumRegisters ? 4 : 2 * T * each <= kSumRegisters ? 2 : 1;
}

inline Vf loadWide(const float* p) { return load(p); }
inline Vf loadWide(const uint16_t* p) {
#if defined(__AVX512F__)
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return reinterpret_cast<Vf>(_mm512_slli_epi32(words, 16));
#elif defined(__AVX2__)
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return reinterpret_cast<Vf>(_mm256_slli_epi32(words, 16));
#else
  Vf v;
  for (int i = 0; i < kLanes; i++) v[i] = fromBf16(p[i]);
  return v;
#endif
}
inline float widen(float value) { return value; }
inline float widen(uint16_t bits) { return fromBf16(bits); }

/** sumLanes in registers. */
inline float addLanes(Vf v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));
#else
  return sumLanes(v);
#endif
}

/** sums[r * T + t] += w[r] . x[t] over n elements; rows of w and x are wStride and xStride apart. */
template <int R, int T, typename Element>
void denseDots(const Element* w, int64_t wStride, const float* x, int64_t xStride, int64_t n, float* sums) {
  constexpr int kChains = std::max(1, kSumRegisters / 2 / (R * T));
  Vf partial[R][T][kChains] = {};
  int64_t i = 0;
  for (; i + kLanes * kChains <= n; i += kLanes * kChains) {
    LOWRANK_UNROLL
    for (int c = 0; c < kChains; c++) {
      LOWRANK_UNROLL
      for (int r = 0; r < R; r++) {
        const Vf weight = loadWide(w + r * wStride + i + c * kLanes);
        LOWRANK_UNROLL
        for (int t = 0; t < T; t++) partial[r][t][c] += weight * load(x + t * xStride + i + c * kLanes);
      }
    }
  }
  for (; i + kLanes <= n; i += kLanes) {
    LOWRANK_UNROLL
    for (int r = 0; r < R; r++) {
      const Vf weight = loadWide(w + r * wStride + i);
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) partial[r][t][0] += weight * load(x + t * xStride + i);
    }
  }
  LOWRANK_UNROLL
  for (int r = 0; r < R; r++) {
    LOWRANK_UNROLL
    for (int t = 0; t < T; t++) {
      Vf total = partial[r][t][0];
      LOWRANK_UNROLL
      for (int c = 1; c < kChains; c++) total += partial[r][t][c];
      float sum = addLanes(total);
      for (int64_t k = i; k < n; k++) sum += widen(w[r * wStride + k]) * x[t * xStride + k];
      sums[r * T + t] += sum;
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
/** sums[r * T + t] = rows row + r of a 4-bit weight . x[t]. A block's sum is scaled once, not its elements. */
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
  LOWRANK_UNROLL
  for (int r = 0; r < R; r++) {
    LOWRANK_UNROLL
    for (int t = 0; t < T; t++) sums[r * T + t] = _mm512_reduce_add_ps(total[r][t]);
  }
}
#endif

/** One row of a 4-bit weight through a buffer. */
template <int T>
void decodedDots(const Weight& w, int64_t row, const float* x, float* sums) {
  constexpr int64_t kPiece = 1024;
  alignas(64) float piece[kPiece];
  for (int64_t k = 0; k < w.cols; k += kPiece) {
    const int64_t n = std::min(kPiece, w.cols - k);
    decodeRow<F32>(w, row, k, n, piece);
    denseDots<1, T>(piece, 0, x + k, w.cols, n, sums);
  }
}

template <int R, int T>
void someDots(const Weight& w, int64_t row, const float* x, float* sums) {
  const int64_t first = row * w.cols;
  if (w.kind == Weight::Kind::F32) {
    return denseDots<R, T>(static_cast<const float*>(w.data) + first, w.cols, x, w.cols, w.cols, sums);
  }
  denseDots<R, T>(static_cast<const uint16_t*>(w.data) + first, w.cols, x, w.cols, w.cols, sums);
}

/** As rowDots, for T rows of x. */
template <int T>
int64_t rowDotsOf(const Weight& w, int64_t row, int64_t most, const void* x, Form form, float* sums) {
#if defined(__AVX512BF16__)
  if (form == Form::Half || form == Form::HalfSplit) {
    const auto* halves = static_cast<const uint16_t*>(x);
    if (form == Form::HalfSplit) {
      // What each row costs besides its elements counts in short rows; long ones are read fastest one by one.
      constexpr int64_t kShortRow = 1024;
      constexpr int kTogether = T == 1 ? kMostDotRows : dotRows(T, 2);
      if (most >= kTogether && (T > 1 || w.cols <= kShortRow))
        return quantizedHalfDots<kTogether, T>(w, row, halves, sums), kTogether;
      return quantizedHalfDots<1, T>(w, row, halves, sums), 1;
    }
    constexpr int kTogether = dotRows(T, 2);
    const uint16_t* from = static_cast<const uint16_t*>(w.data) + row * w.cols;
    if (most >= kTogether) return halfDots<kTogether, T>(from, w.cols, halves, w.cols, w.cols, sums), kTogether;
    return halfDots<1, T>(from, w.cols, halves, w.cols, w.cols, sums), 1;
  }
#endif
  (void)form;
  const auto* floats = static_cast<const float*>(x);
  std::fill(sums, sums + kMostDotRows * T, 0.0f);
#if defined(__AVX512F__)
  if (form == Form::Split) {
    constexpr int kTogether = dotRows(T, 2);
    if (most >= kTogether) return quantizedDots<kTogether, T>(w, row, floats, sums), kTogether;
    return quantizedDots<1, T>(w, row, floats, sums), 1;
  }
#endif
  if (w.kind == Weight::Kind::Quantized) return decodedDots<T>(w, row, floats, sums), 1;
  constexpr int kTogether = dotRows(T, 1);
  if (most >= kTogether) return someDots<kTogether, T>(w, row, floats, sums), kTogether;
  return someDots<1, T>(w, row, floats, sums), 1;
}

/**
 * sums[r * t + i] = row `row + r` of the weight . x[i], for as many of the next `most` rows as are taken together;
 * returns how many. x: rows of w.cols elements in `form`, which is formFor(w, ...).
 */
inline int64_t rowDots(const Weight& w, int64_t row, int64_t most, const void* x, Form form, int64_t t, float* sums) {
  switch (t) {
    case 1: return rowDotsOf<1>(w, row, most, x, form, sums);
    case 2: return rowDotsOf<2>(w, row, most, x, form, sums);
    case 3: return rowDotsOf<3>(w, row, most, x, form, sums);
    case 4: return rowDotsOf<4>(w, row, most, x, form, sums);
    case 5: return rowDotsOf<5>(w, row, most, x, form, sums);
    case 6: return rowDotsOf<6>(w, row, most, x, form, sums);
    case 7: return rowDotsOf<7>(w, row, most, x, form, sums);
    default: return rowDotsOf<8>(w, row, most, x, form, sums);
  }
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
