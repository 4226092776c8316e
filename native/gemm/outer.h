// Sums of outer products for narrow gradients: to [R, C] = sum over t of u [t, R] x x [t, C]. The wide side is read once,
// as it lies, in f32: for adapters of low rank, packing it for a matrix product would cost more than the product.
// Gradients of higher ranks: product.h.
#pragma once
#include <algorithm>

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

/** The narrow side, copied to whole groups of kOuterRows columns, zeros behind. */
class Narrow {
 public:
  Narrow(const float* from, int64_t t, int64_t ranks, int64_t stride, float factor)
      : ranks_(ranks), padded_(roundUp(ranks, kOuterRows)), t_(t), memory_(t * padded_ * 4) {
    float* to = memory_.as<float>();
    for (int64_t i = 0; i < t; i++, from += stride, to += padded_) {
      for (int64_t r = 0; r < ranks; r++) to[r] = from[r] * factor;
      std::fill(to + ranks, to + padded_, 0.0f);
    }
  }

  /**
   * Calls add(sums, stride, c, n) with sums [ranks, n] for columns [c, c + n) of x [t, cols], once for every column, on
   * several threads. Each sum runs over t in order, however the columns are split.
   */
  template <typename Add>
  void sumWith(const float* x, int64_t cols, const Add& add) const {
    constexpr int64_t kStrip = 192 / kLanes * kLanes;
    const int64_t threads = threadCount();
    const int64_t rounds = divideUp(cols, kStrip * threads);
    const int64_t strip = std::min(kStrip, roundUp(divideUp(cols, rounds * threads), kLanes));
    parallelTasks(divideUp(cols, strip), [&](int64_t task, int) {
      const int64_t c = task * strip, n = std::min(strip, cols - c);
      auto* sums = static_cast<float*>(scratch(Slot::Skinny, static_cast<size_t>(padded_ * kStrip) * 4));
      std::fill(sums, sums + padded_ * kStrip, 0.0f);
      for (int64_t t = 0; t < t_; t += kRun) {
        addRun(x + t * cols + c, cols, t, std::min(kRun, t_ - t), n, sums, kStrip);
      }
      add(sums, kStrip, c, n);
    });
  }

  /** Ranks as sums have them: whole groups. */
  int64_t padded() const { return padded_; }

  /**
   * sums [padded, n] += u [t, t + rows)^T x for n columns of rows [t, t + rows), the first of which is at x. Rows of sums
   * have room for whole vectors.
   */
  void addRun(const float* x, int64_t stride, int64_t t, int64_t rows, int64_t n, float* sums,
              int64_t sumStride) const {
    const float* u = memory_.as<float>() + t * padded_;
    for (int64_t c = 0; c < n;) {
      const int64_t left = n - c;
      const int64_t vectors = std::min<int64_t>(kOuterVectors, left / kLanes);
      for (int64_t r = 0; r < padded_; r += kOuterRows) {
        float* to = sums + r * sumStride + c;
        if (vectors == 3) tile<3>(x + c, stride, u + r, rows, to, sumStride);
        else if (vectors == 2) tile<2>(x + c, stride, u + r, rows, to, sumStride);
        else if (vectors == 1) tile<1>(x + c, stride, u + r, rows, to, sumStride);
        else tile<1, true>(x + c, stride, u + r, rows, to, sumStride, static_cast<int>(left));
      }
      c += std::max<int64_t>(vectors, 1) * kLanes;
    }
  }

 private:
  static constexpr int64_t kRun = 64;    // rows of x that stay in the L1 cache while every rank passes over them
  static constexpr int64_t kAhead = 12;  // rows

  /** kOuterRows ranks by Vectors vectors of columns; Partial: by `lanes` columns. */
  template <int Vectors, bool Partial = false>
  void tile(const float* x, int64_t stride, const float* u, int64_t rows, float* to, int64_t toStride,
            int lanes = kLanes) const {
    Vf sums[kOuterRows][Vectors];
    LOWRANK_UNROLL
    for (int r = 0; r < kOuterRows; r++) {
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) sums[r][z] = load(to + r * toStride + z * kLanes);
    }
    for (int64_t t = 0; t < rows; t++, x += stride, u += padded_) {
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
