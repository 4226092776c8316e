// Products with a few rows, as adapters of low rank have them: to [T, R] = x [T, n] x narrow [R, n]^T. x is used as it
// lies, f32; in bf16 it is rounded as it is read (VDPBF16PS), the narrow side once. Products of higher ranks: product.h;
// sums over T: outer.h.
#pragma once
#include <type_traits>

#include "../sum-lanes.h"
#include "pack.h"
#include "rows.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** How Dots multiplies for a precision's Element: f32 vectors, or pairs of bf16 where there are instructions for them. */
struct FloatSteps {
  using Type = float;
  using Sum = Vf;
  static constexpr int64_t kElements = kLanes;
  static Vf read(const float* x) { return load(x); }
  static Vf readFirst(const float* x, int n) { return loadFirst(x, n); }
  static Vf narrow(const Type* p) { return load(p); }
  static Vf add(Vf sum, Vf a, Vf b) { return multiplyAdd(a, b, sum); }
};

#if defined(__AVX512BF16__)
struct HalfSteps {
  using Type = uint16_t;
  static constexpr int64_t kElements = 2 * kLanes;
  static __m512bh halves(Vf low, Vf high) {
    return _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low));
  }
  static __m512bh read(const float* x) { return halves(load(x), load(x + kLanes)); }
  static __m512bh readFirst(const float* x, int n) {
    return n <= kLanes ? halves(loadFirst(x, n), Vf{}) : halves(load(x), loadFirst(x + kLanes, n - kLanes));
  }
  static __m512bh narrow(const Type* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static Vf add(Vf sum, __m512bh a, __m512bh b) {
    return reinterpret_cast<Vf>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), a, b));
  }
};
template <typename Element>
using StepsOf = std::conditional_t<std::is_same_v<Element, Bf16>, HalfSteps, FloatSteps>;
#else
template <typename Element>
using StepsOf = FloatSteps;
#endif

/** The narrow side [R, n], its rows padded with zeros to whole vectors. */
template <typename Element>
class Dots {
  using Steps = StepsOf<Element>;
  using Type = typename Steps::Type;
  static constexpr int kRows = kLanes == 16 ? 4 : 2, kRanks = 4;

 public:
  /** Element (r, k) at from[r * rankStride + k * stride]; one of the strides is 1. */
  Dots(const float* from, int64_t ranks, int64_t n, int64_t rankStride, int64_t stride)
      : ranks_(ranks),
        n_(n),
        padded_(roundUp(n, Steps::kElements)),
        memory_(ranks * padded_ * static_cast<int64_t>(sizeof(Type))) {
    for (int64_t r = 0; r < ranks_; r++) {
      if (stride == 1) place(from + r * rankStride, r, 0, n);
      std::fill(row(r) + n_, row(r) + padded_, Type{});
    }
    if (stride != 1) transpose(from, rankStride, stride);
  }

  /** to[i * toStride + r] = factor * x[i] . narrow[r] for `rows` rows of x, which are xStride apart. */
  void run(const float* x, int64_t rows, int64_t xStride, float factor, float* to, int64_t toStride) const {
    for (int64_t i = 0; i < rows;) {
      const bool several = i + kRows <= rows;
      for (int64_t r = 0; r < ranks_;) {
        const bool many = r + kRanks <= ranks_;
        const float* from = x + i * xStride;
        float* at = to + i * toStride + r;
        if (several && many) tile<kRows, kRanks>(from, xStride, r, factor, at, toStride);
        else if (several) tile<kRows, 1>(from, xStride, r, factor, at, toStride);
        else if (many) tile<1, kRanks>(from, xStride, r, factor, at, toStride);
        else tile<1, 1>(from, xStride, r, factor, at, toStride);
        r += many ? kRanks : 1;
      }
      i += several ? kRows : 1;
    }
  }

 private:
  /** Elements [k, k + count) of row r. */
  void place(const float* from, int64_t r, int64_t k, int64_t count) {
    if constexpr (std::is_same_v<Type, float>) std::copy(from, from + count, row(r) + k);
    else narrowToBf16(from, 1, row(r) + k, count);
  }

  /** Rows from columns that lie `stride` apart, 64 elements of 16 rows at a time. */
  void transpose(const float* from, int64_t rankStride, int64_t stride) {
    constexpr int64_t kWidth = 64;
    uint32_t block[kGroup * kWidth];
    for (int64_t r = 0; r < ranks_; r += kGroup) {
      const int here = static_cast<int>(std::min<int64_t>(kGroup, ranks_ - r));
      for (int64_t k = 0; k < n_; k += kWidth) {
        const int64_t count = std::min(kWidth, n_ - k);
        for (int64_t i = 0; i < count; i += kGroup) {
          const void* lines[kGroup];
          for (int j = 0; j < kGroup; j++) {
            lines[j] = i + j < count ? from + r * rankStride + (k + i + j) * stride : nullptr;
          }
          transposeBlock(lines, 0, here, here, block + i, kWidth);
        }
        for (int j = 0; j < here; j++) {
          float values[kWidth];
          std::memcpy(values, block + j * kWidth, sizeof values);
          place(values, r + j, k, count);
        }
      }
    }
  }

  Type* row(int64_t r) const { return memory_.template as<Type>() + r * padded_; }

  template <int Rows, int Ranks>
  void tile(const float* x, int64_t xStride, int64_t rank, float factor, float* to, int64_t toStride) const {
    Vf sums[Rows][Ranks] = {};
    const Type* narrow = row(rank);
    const auto step = [&](int64_t k, const auto& read) {
      decltype(Steps::narrow(narrow)) columns[Ranks];
      LOWRANK_UNROLL
      for (int r = 0; r < Ranks; r++) columns[r] = Steps::narrow(narrow + r * padded_ + k);
      LOWRANK_UNROLL
      for (int i = 0; i < Rows; i++) {
        const auto here = read(x + i * xStride + k);
        LOWRANK_UNROLL
        for (int r = 0; r < Ranks; r++) sums[i][r] = Steps::add(sums[i][r], here, columns[r]);
      }
    };
    int64_t k = 0;
    for (; k + Steps::kElements <= n_; k += Steps::kElements) {
      step(k, [](const float* p) { return Steps::read(p); });
    }
    if (k < n_) step(k, [&](const float* p) { return Steps::readFirst(p, static_cast<int>(n_ - k)); });
#if defined(__AVX512F__)
    if constexpr (Rows * Ranks == 16) {
      __m512 all[16];
      LOWRANK_UNROLL
      for (int i = 0; i < 16; i++) all[i] = reinterpret_cast<__m512>(sums[i / Ranks][i % Ranks]);
      float totals[16];
      _mm512_storeu_ps(totals, _mm512_mul_ps(sumsOfLanes16(all), _mm512_set1_ps(factor)));
      for (int i = 0; i < Rows; i++) {
        for (int r = 0; r < Ranks; r++) to[i * toStride + r] = totals[i * Ranks + r];
      }
      return;
    }
#endif
    for (int i = 0; i < Rows; i++) {
      for (int r = 0; r < Ranks; r++) to[i * toStride + r] = factor * total(sums[i][r]);
    }
  }

  /** Of one sum, with the bits that it has among 16: a row's result does not depend on the rows beside it. */
  static float total(Vf sum) {
#if defined(__AVX512F__)
    return sumOfLanes(reinterpret_cast<__m512>(sum));
#else
    return sumLanes(sum);
#endif
  }

  int64_t ranks_, n_, padded_;
  Scratch memory_;
};

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
