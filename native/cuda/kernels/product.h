// What the kernels of matrix products share: where a block's steps along K begin, and how a result ends. C = sum over terms of
// A B, then bias, residual and what C held; or the sums alone, for product-reduce.cu to end: slices of K, masked products, rows
// of an odd length. A term is a pair of operands that add to the same C: the weight's, an adapter's. Sums run through K in order, term after term, whatever the tile: a tile's size changes no bit.
// Products: product-bf16.cu, product-f32.cu, each with its arguments; the operands they read: product-operands.cu; few
// rows: product-rows.cu. Who asks for what: src/backend/cuda/products.ts.
#pragma once
#include "../device.h"

/** Flags of a product. */
constexpr u32 kAccumulate = 1, kPartial = 2, kATransposed = 4, kBTransposed = 8;

/** Where the steps of K that a block walks begin: a term and an element of its K. */
struct ProductCursor {
  u32 term, k0;
};

/** The cursor `skipped` steps of `depth` elements from the first. */
template <typename Arguments>
FN ProductCursor productCursor(const Arguments& a, u32 depth, u32 skipped) {
  ProductCursor cursor{0, 0};
  while (cursor.term < a.terms) {
    const u32 steps = (a.k[cursor.term] + depth - 1) / depth;
    if (skipped < steps) break;
    skipped -= steps;
    cursor.term++;
  }
  cursor.k0 = skipped * depth;
  return cursor;
}

/** Steps of `depth` elements that this block walks, from `first` on. */
template <typename Arguments>
FN u32 productSteps(const Arguments& a, u32 depth, u32& first) {
  u32 total = 0;
  for (u32 t = 0; t < a.terms; t++) total += (a.k[t] + depth - 1) / depth;
  first = blockIdx.z * a.steps;
  if (first >= total) return 0;
  return total - first < a.steps ? total - first : a.steps;
}

/** Elements (row, column) and (row, column + 1) of C, or of this slice's sums. */
template <typename Arguments>
FN void finishPair(const Arguments& a, u32 row, u32 column, float x, float y) {
  if (column >= a.n) return;
  if (a.flags & kPartial) {
    const u64 pitch = (a.n + 1) & ~1u, row0 = static_cast<u64>(blockIdx.z) * a.m;
    *reinterpret_cast<float2*>(a.partials + (row0 + row) * pitch + column) = make_float2(x, y);
    return;
  }
  const u64 index = static_cast<u64>(row) * a.ldc + column;
  if (a.bias) x += a.bias[column], y += a.bias[column + 1];
  if (a.residual) {
    const float2 more = *reinterpret_cast<const float2*>(a.residual + index);
    x += more.x, y += more.y;
  }
  float2* to = reinterpret_cast<float2*>(a.c + index);
  if (a.flags & kAccumulate) {
    const float2 held = *to;
    x += held.x, y += held.y;
  }
  *to = make_float2(x, y);
}
