// Pairs of bf16 numbers as VDPBF16PS takes them (two products a lane and step, summed in f32): an element of a tile
// product is a pair along the summed dimension, the earlier number in its low half. How f32 rows become pairs, and
// 2^x as cheap as weights that are rounded to bf16 need. Not here: the products' loops (../kernels/tile-product.h).
#pragma once
#include "../kernels/lanes.h"
#include "../kernels/tile-product.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

using Pair = uint32_t;

struct PairTerms {
  using Element = Pair;
  using Operand = __m512i;
  LOWRANK_INLINE static Operand row(const Element* b) { return _mm512_loadu_si512(b); }
  LOWRANK_INLINE static Operand everywhere(Element a) { return _mm512_set1_epi32(static_cast<int>(a)); }
  LOWRANK_INLINE static Vec add(Operand a, Operand b, Vec sum) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
};

/** Rounded to nearest even: `low` in the lower 16 halves, `high` in the upper ones. */
LOWRANK_INLINE __m512i toHalves(Vec low, Vec high) {
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}

LOWRANK_INLINE Vec rounded(Vec v) {
  const __m256i halves = (__m256i)_mm512_cvtneps_pbh((__m512)v);
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}

/** Lane i: the pair of lower half i and upper half i. */
LOWRANK_INLINE __m512i pairsOf(__m512i halves) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}

LOWRANK_INLINE void storeHalves(__m512i halves, uint16_t* low, uint16_t* high) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(low), _mm512_castsi512_si256(halves));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), _mm512_extracti64x4_epi64(halves, 1));
}

/** to[i] = the pair of first[i] and second[i], or of first[i] and 0; n a multiple of 16. */
LOWRANK_INLINE void pairRows(const float* first, const float* second, int64_t n, Pair* to) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec low = load(first + i), high = second ? load(second + i) : Vec{};
    _mm512_storeu_si512(to + i, pairsOf(toHalves(low, high)));
  }
}

/** One row as pairs of neighbors, [n / 2]; n a multiple of 16. */
LOWRANK_INLINE void pairNeighbors(const float* row, int64_t n, Pair* to) {
  for (int64_t i = 0; i < n; i += kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i / 2),
                        (__m256i)_mm512_cvtneps_pbh((__m512)load(row + i)));
  }
}

/** The tile's rows of x as lanes of pairs along D, [D/2][64]. */
inline void rowsToLanePairs(const TileRows& t, const float* x, int64_t headDim, Pair* lanes) {
  transposeRows(t, headDim / 2, lanes, [&](int row, int64_t pair, int64_t count) {
    const float* from = x + t.offset[row] + 2 * pair;
    return toHalves(load(from), count > 8 ? load(from + kLanes) : Vec{});
  });
}

/** The tile's rows of x in pairs of rows, [rows/2][D]; an odd last row is paired with zeros. */
inline void rowsToRowPairs(const TileRows& t, const float* x, int64_t headDim, Pair* to) {
  for (int r = 0; r < t.rows; r += 2) {
    pairRows(x + t.offset[r], r + 1 < t.rows ? x + t.offset[r + 1] : nullptr, headDim, to + r / 2 * headDim);
  }
}

/** Score of a hidden key. A power of two: its product with any factor is exact, so rows without a key stay finite. */
constexpr float kHiddenScore = -0x1p100f;

/** 2^x within 2e-7, for x up to 127; 0 for large negative x; NaN stays NaN. A minimax fit over the fraction of x. */
LOWRANK_INLINE Vec quickExponentialBase2(Vec x) {
  const Vec r = (Vec)_mm512_reduce_ps((__m512)x, 1);  // x - floor(x)
  Vec p = broadcast(0.0018775766948238015f);
  p = multiplyAdd(p, r, broadcast(0.00898933969438076f));
  p = multiplyAdd(p, r, broadcast(0.05582631751894951f));
  p = multiplyAdd(p, r, broadcast(0.24015361070632935f));
  p = multiplyAdd(p, r, broadcast(0.6931530833244324f));
  p = multiplyAdd(p, r, broadcast(0.9999999403953552f));
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)x);  // by 2^floor(x)
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
