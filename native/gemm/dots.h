// Products with a few rows, as adapters of low rank have them: to [T, R] = x [T, n] x narrow [R, n]^T, in f32. Both
// sides are used as they lie. Products of higher ranks: product.h; sums over T: outer.h.
#pragma once
#include "../sum-lanes.h"
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

constexpr int kDotsRows = kLanes == 16 ? 4 : 2, kDotsRanks = 4;

/** to[i * toStride + r] = factor * x[i] . narrow[r], i < Rows, r < Ranks; rows of x and narrow are strides apart. */
template <int Rows, int Ranks>
void dotsTile(const float* x, int64_t xStride, const float* narrow, int64_t narrowStride, int64_t n, float factor,
              float* to, int64_t toStride) {
  Vf sums[Rows][Ranks] = {};
  const auto step = [&](int64_t k, const auto& read) {
    Vf columns[Ranks];
    LOWRANK_UNROLL
    for (int r = 0; r < Ranks; r++) columns[r] = read(narrow + r * narrowStride + k);
    LOWRANK_UNROLL
    for (int i = 0; i < Rows; i++) {
      const Vf row = read(x + i * xStride + k);
      LOWRANK_UNROLL
      for (int r = 0; r < Ranks; r++) sums[i][r] += row * columns[r];
    }
  };
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) step(k, [](const float* p) { return load(p); });
  if (k < n) step(k, [&](const float* p) { return loadFirst(p, static_cast<int>(n - k)); });
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
    for (int r = 0; r < Ranks; r++) to[i * toStride + r] = factor * sumLanes(sums[i][r]);
  }
}

/** to[i * toStride + r] = factor * x[i] . narrow[r] for all rows and ranks. */
inline void dots(const float* x, int64_t rows, int64_t xStride, const float* narrow, int64_t ranks, int64_t narrowStride,
                 int64_t n, float factor, float* to, int64_t toStride) {
  for (int64_t i = 0; i < rows;) {
    const bool several = i + kDotsRows <= rows;
    const float* row = x + i * xStride;
    for (int64_t r = 0; r < ranks;) {
      const bool many = r + kDotsRanks <= ranks;
      const float* from = narrow + r * narrowStride;
      float* at = to + i * toStride + r;
      if (several && many) dotsTile<kDotsRows, kDotsRanks>(row, xStride, from, narrowStride, n, factor, at, toStride);
      else if (several) dotsTile<kDotsRows, 1>(row, xStride, from, narrowStride, n, factor, at, toStride);
      else if (many) dotsTile<1, kDotsRanks>(row, xStride, from, narrowStride, n, factor, at, toStride);
      else dotsTile<1, 1>(row, xStride, from, narrowStride, n, factor, at, toStride);
      r += many ? kDotsRanks : 1;
    }
    i += several ? kDotsRows : 1;
  }
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
