// C = A B (+ C) on tiles that fit a core's caches, C in f32: the products inside attention. A is read one broadcast
// element at a time, in either order of its indices, so neither K nor V nor their gradients are ever packed; B and C
// are rows of whole vectors. Elements are floats here and pairs of bf16 in ../bf16/pairs.h.
// Not here: the large products of linear layers (gemm/).
#pragma once
#include "../simd.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

// Registers: 6 rows x 4 vectors of sums where there are 32 (AVX-512, NEON), 6 x 2 where there are 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kWideVectors = 4;
#else
constexpr int kWideVectors = 2;
#endif
constexpr int kBlockRows = 6;

/** Element (row, k) of A: rows `stride` apart and k contiguous, or the other way round. */
enum class Order { DepthContiguous, RowContiguous };

/** What C holds before the product: nothing, a sum to add to, or a sum to multiply by `factor` per column first. */
enum class Start { Zero, Add, Scale };

/** What a product multiplies: one float a lane and step. */
struct FloatTerms {
  using Element = float;
  using Operand = Vec;
  LOWRANK_INLINE static Operand row(const Element* b) { return load(b); }
  LOWRANK_INLINE static Operand everywhere(Element a) { return broadcast(a); }
  LOWRANK_INLINE static Vec add(Operand a, Operand b, Vec sum) { return multiplyAdd(a, b, sum); }
};

template <class Terms>
struct TileProduct {
  int64_t rows, vectors, depth;  // C is rows x (vectors * kLanes)
  const typename Terms::Element* a;
  int64_t aStride;
  const typename Terms::Element* b;
  int64_t bStride;
  float* c;
  int64_t cStride;
  Start start;
  const float* factor;  // [columns], for Start::Scale
};

template <class Terms, Order order, int Rows, int Vectors>
LOWRANK_INLINE void productBlock(const TileProduct<Terms>& t, const typename Terms::Element* a,
                                 const typename Terms::Element* b, float* c, const float* factor) {
  Vec sum[Rows][Vectors];
  for (int r = 0; r < Rows; r++) {
    for (int v = 0; v < Vectors; v++) sum[r][v] = Vec{};
  }
  const int64_t aStride = t.aStride, bStride = t.bStride, depth = t.depth;
  for (int64_t k = 0; k < depth; k++) {
    typename Terms::Operand bv[Vectors];
    for (int v = 0; v < Vectors; v++) bv[v] = Terms::row(b + v * kLanes);
    for (int r = 0; r < Rows; r++) {
      const typename Terms::Operand av = Terms::everywhere(order == Order::DepthContiguous ? a[r * aStride] : a[r]);
      for (int v = 0; v < Vectors; v++) sum[r][v] = Terms::add(av, bv[v], sum[r][v]);
    }
    a += order == Order::DepthContiguous ? 1 : aStride;
    b += bStride;
  }
  // One unrolled loop per case: a branch inside would push the sums through memory.
  const auto finish = [&](const auto& combine) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; v++) {
        float* at = c + r * t.cStride + v * kLanes;
        store(at, combine(sum[r][v], at, v));
      }
    }
  };
  if (t.start == Start::Zero) {
    finish([](Vec s, const float*, int) { return s; });
  } else if (t.start == Start::Add) {
    finish([](Vec s, const float* at, int) { return s + load(at); });
  } else {
    finish([&](Vec s, const float* at, int v) { return multiplyAdd(load(at), load(factor + v * kLanes), s); });
  }
}

template <class Terms, Order order, int Vectors>
void productColumns(const TileProduct<Terms>& t, int64_t vector) {
  const int64_t column = vector * kLanes;
  const int64_t rowStep = order == Order::DepthContiguous ? t.aStride : 1;
  const typename Terms::Element* b = t.b + column;
  const float* factor = t.factor ? t.factor + column : nullptr;
  int64_t row = 0;
  for (; row + kBlockRows <= t.rows; row += kBlockRows) {
    productBlock<Terms, order, kBlockRows, Vectors>(t, t.a + row * rowStep, b, t.c + row * t.cStride + column, factor);
  }
  const typename Terms::Element* a = t.a + row * rowStep;
  float* c = t.c + row * t.cStride + column;
  switch (t.rows - row) {
    case 1: return productBlock<Terms, order, 1, Vectors>(t, a, b, c, factor);
    case 2: return productBlock<Terms, order, 2, Vectors>(t, a, b, c, factor);
    case 3: return productBlock<Terms, order, 3, Vectors>(t, a, b, c, factor);
    case 4: return productBlock<Terms, order, 4, Vectors>(t, a, b, c, factor);
    case 5: return productBlock<Terms, order, 5, Vectors>(t, a, b, c, factor);
  }
}

template <Order order, class Terms = FloatTerms>
void tileProduct(const TileProduct<Terms>& t) {
  int64_t vector = 0;
  for (; vector + kWideVectors <= t.vectors; vector += kWideVectors) {
    productColumns<Terms, order, kWideVectors>(t, vector);
  }
  if (kWideVectors == 4 && vector + 2 <= t.vectors) {
    productColumns<Terms, order, 2>(t, vector);
    vector += 2;
  }
  if (vector < t.vectors) productColumns<Terms, order, 1>(t, vector);
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
