// Sums of outer products for narrow gradients: to [R, C] = sum over t of u [t, R] x x [t, C]. The wide side is read once,
// as it lies: for adapters of low rank, packing it for a matrix product would cost more than the product. In bf16 two
// rows are taken at once, rounded as they are read (VDPBF16PS). Gradients of higher ranks: product.h.
#pragma once
#include <algorithm>
#include <type_traits>

#include "../memory.h"
#include "../threads.h"
#include "pack.h"
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kOuterRows = 8, kOuterVectors = 3;  // 24 accumulators of 32 registers
#else
constexpr int kOuterRows = 4, kOuterVectors = 3;  // 12 of 16
#endif

/** Ranks that are summed so. Measured at 8 to 24 only: where products on packed operands overtake is not known. */
constexpr int64_t kMostOuterRanks = 32;

/** The narrow side, copied to whole groups of kOuterRows columns, zeros behind; for Element Bf16 in pairs of rows. */
template <typename Element>
class Narrow {
#if defined(__AVX512BF16__)
  static constexpr bool kPairs = std::is_same_v<Element, Bf16>;
#else
  static constexpr bool kPairs = false;
#endif

 public:
  Narrow(const float* from, int64_t t, int64_t ranks, int64_t stride, float factor)
      : ranks_(ranks), padded_(roundUp(ranks, kOuterRows)), t_(t), memory_(roundUp(t, 2) * padded_ * 4) {
#if defined(__AVX512BF16__)
    if constexpr (kPairs) {
      auto* to = memory_.as<uint32_t>();
      for (int64_t i = 0; i < t; i += 2, from += 2 * stride, to += padded_) {
        for (int64_t r = 0; r < padded_; r += kLanes) {
          const int lanes = static_cast<int>(std::clamp<int64_t>(ranks - r, 0, kLanes));
          const Vf first = loadFirst(from + r, lanes) * factor;
          const Vf second = i + 1 < t ? loadFirst(from + stride + r, lanes) * factor : Vf{};
          const auto written = static_cast<__mmask16>(padded_ - r >= kLanes ? 0xffff : (1u << (padded_ - r)) - 1);
          _mm512_mask_storeu_epi32(to + r, written, (__m512i)pairsOfRows(first, second));
        }
      }
      return;
    }
#endif
    float* to = memory_.as<float>();
    for (int64_t i = 0; i < t; i++, from += stride, to += padded_) {
      for (int64_t r = 0; r < ranks; r++) to[r] = from[r] * factor;
      std::fill(to + ranks, to + padded_, 0.0f);
    }
  }

  /**
   * Calls add(sums, stride) with sums [ranks, n] for columns [c, c + n) of x [t, cols], n at most kStrip. Each sum runs
   * over t in order, however the columns are split.
   */
  template <typename Add>
  void sumWith(const float* x, int64_t cols, int64_t c, int64_t n, const Add& add) const {
    auto* sums = static_cast<float*>(scratch(Slot::Skinny, static_cast<size_t>(padded_ * kStrip) * 4));
    for (int64_t t = 0; t < t_; t += kRun) {
      addRun(x + t * cols + c, cols, t, std::min(kRun, t_ - t), n, sums, kStrip, t == 0);
    }
    add(sums, kStrip);
  }

  static constexpr int64_t kStrip = 192 / kLanes * kLanes;

  /** Columns of a strip, for tasks that keep every thread busy. */
  static int64_t stripOf(int64_t cols) {
    const int64_t threads = threadCount(), rounds = divideUp(cols, kStrip * threads);
    return std::min(kStrip, roundUp(divideUp(cols, rounds * threads), kLanes));
  }

  /** Ranks as sums have them: whole groups. */
  int64_t padded() const { return padded_; }

  /**
   * sums [padded, n] += u [t, t + rows)^T x for n columns of rows [t, t + rows), the first of which is at x; = where they
   * are `fresh`. Rows of sums have room for whole vectors. t is even.
   */
  void addRun(const float* x, int64_t stride, int64_t t, int64_t rows, int64_t n, float* sums, int64_t sumStride,
              bool fresh) const {
    const float* u = memory_.as<float>() + (kPairs ? t / 2 : t) * padded_;
    for (int64_t c = 0; c < n;) {
      const int64_t left = n - c;
      const int64_t vectors = std::min<int64_t>(kOuterVectors, left / kLanes);
      for (int64_t r = 0; r < padded_; r += kOuterRows) {
        float* to = sums + r * sumStride + c;
        if (vectors == 3) tile<3>(x + c, stride, u + r, rows, to, sumStride, fresh);
        else if (vectors == 2) tile<2>(x + c, stride, u + r, rows, to, sumStride, fresh);
        else if (vectors == 1) tile<1>(x + c, stride, u + r, rows, to, sumStride, fresh);
        else tile<1, true>(x + c, stride, u + r, rows, to, sumStride, fresh, static_cast<int>(left));
      }
      c += std::max<int64_t>(vectors, 1) * kLanes;
    }
  }

 private:
#if defined(__AVX512BF16__)
  /** Lane i: element i of both, rounded, the first in the low half. */
  static __m512bh pairsOfRows(Vf first, Vf second) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const auto halves =
        (__m512i)_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first));
    return (__m512bh)_mm512_permutexvar_epi16(order, halves);
  }
#endif

  static constexpr int64_t kRun = 64;    // rows of x that stay in the L1 cache while every rank passes over them
  static constexpr int64_t kAhead = 12;  // rows

  /** kOuterRows ranks by Vectors vectors of columns; Partial: by `lanes` columns. */
  template <int Vectors, bool Partial = false>
  void tile(const float* x, int64_t stride, const float* u, int64_t rows, float* to, int64_t toStride, bool fresh,
            int lanes = kLanes) const {
    Vf sums[kOuterRows][Vectors];
    LOWRANK_UNROLL
    for (int r = 0; r < kOuterRows; r++) {
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) sums[r][z] = fresh ? Vf{} : load(to + r * toStride + z * kLanes);
    }
    int64_t t = 0;
#if defined(__AVX512BF16__)
    if constexpr (kPairs) {
      for (; t < rows; t += 2, x += 2 * stride, u += padded_) {
        __m512bh columns[Vectors];
        LOWRANK_UNROLL
        for (int z = 0; z < Vectors; z++) {
          const float* at = x + z * kLanes;
          __builtin_prefetch(at + kAhead * stride);
          __builtin_prefetch(at + (kAhead + 1) * stride);
          const auto read = [&](const float* p) { return Partial ? loadFirst(p, lanes) : load(p); };
          const Vf first = read(at), second = t + 1 < rows ? read(at + stride) : Vf{};
          columns[z] = pairsOfRows(first, second);
        }
        LOWRANK_UNROLL
        for (int r = 0; r < kOuterRows; r++) {
          int32_t pair;
          std::memcpy(&pair, u + r, 4);
          const auto value = (__m512bh)_mm512_set1_epi32(pair);
          LOWRANK_UNROLL
          for (int z = 0; z < Vectors; z++) {
            sums[r][z] = reinterpret_cast<Vf>(
                _mm512_dpbf16_ps(reinterpret_cast<__m512>(sums[r][z]), columns[z], value));
          }
        }
      }
    }
#endif
    for (; t < rows; t++, x += stride, u += padded_) {
      Vf columns[Vectors];
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) {
        __builtin_prefetch(x + kAhead * stride + z * kLanes);
        columns[z] = Partial ? loadFirst(x + z * kLanes, lanes) : load(x + z * kLanes);
      }
      LOWRANK_UNROLL
      for (int r = 0; r < kOuterRows; r++) {
        const Vf value = splat(u[r]);
        LOWRANK_UNROLL
        for (int z = 0; z < Vectors; z++) sums[r][z] += value * columns[z];
      }
    }
    LOWRANK_UNROLL
    for (int r = 0; r < kOuterRows; r++) {
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) store(to + r * toStride + z * kLanes, sums[r][z]);
    }
  }

  int64_t ranks_, padded_, t_;
  Scratch memory_;
};

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
