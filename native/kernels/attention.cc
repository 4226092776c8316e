// Causal attention with grouped heads, sliding windows and packed segments, without a T x T matrix: tiles of rows
// walk over blocks of keys with a running maximum and sum (Milakov & Gimelshein 2018; Dao et al. 2022). Serves
// training, prefill and decoding alike. Here: one tile in f32. Not here: the order of tiles (attention-order.h), the
// backward pass (attention-backward.cc), the tile's layout (attention-tile.h), products of bf16 (../bf16/).
#include <cfloat>

#include "../simd-math.h"
#include "attention-order.h"
#include "attention-thin.h"
#include "declarations.h"
#include "tile-product.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** Scores become exp2(score - largest); largest and total move on, and factor is what older sums shrink by. */
void onlineSoftmax(int vectors, int64_t keys, float* scores, const TileSums& s) {
  for (int v = 0; v < vectors; v++) {
    const int lane = v * kLanes;
    float* column = scores + lane;
    const Vec before = load(s.largest + lane);
    Vec best = before, other = before;
    int64_t j = 0;
    for (; j + 2 <= keys; j += 2) {
      best = maximum(load(column + j * kTileRows), best);
      other = maximum(load(column + (j + 1) * kTileRows), other);
    }
    if (j < keys) best = maximum(load(column + j * kTileRows), best);
    best = maximum(other, best);
    const Vec factor = exponentialBase2(before - best);
    Vec total = load(s.total + lane) * factor;
    for (j = 0; j < keys; j++) {
      const Vec p = exponentialBase2(load(column + j * kTileRows) - best);
      store(column + j * kTileRows, p);
      total += p;
    }
    store(s.largest + lane, best);
    store(s.total + lane, total);
    store(s.factor + lane, factor);
  }
}

template <class Source>
struct PlainTiles {
  const AttentionArgs& a;
  const Source &k, &v;

  static constexpr int64_t kKeyUnit = 1;
  static int64_t scratchSize(int64_t headDim) { return (headDim + kTileKeys) * kTileRows + headDim * kTileKeys; }

  void run(const RowTile& tile, const TileRows& t, const TileSums& s, float* scratch) const {
    if (isThin(a, t.rows)) return runThinTile(a, k, v, tile, t, s, scratch);
    const int64_t d = a.headDim;
    float* q = scratch;                            // [D][64]
    float* scores = q + d * kTileRows;             // [keys][64], in units of log2
    float* packed = scores + kTileKeys * kTileRows;
    rowsToLanes(t, a.q, d, scoreUnit(a), q);
    for (int r = 0; r < kTileRows; r++) {
      s.largest[r] = -FLT_MAX;
      s.total[r] = 0;
    }
    if (tile.keysBegin >= tile.keysEnd) std::memset(s.out, 0, sizeof(float) * d * kTileRows);
    for (int64_t key = tile.keysBegin; key < tile.keysEnd; key += kTileKeys) {
      const int64_t keys = smaller(kTileKeys, tile.keysEnd - key);
      const KeyRows keyed = k.tileRows(a, tile, key, keys, packed);
      tileProduct<Order::DepthContiguous>({keys, t.vectors, d, keyed.data, keyed.stride, q, kTileRows, scores, kTileRows,
                                           Start::Zero, nullptr});
      if (a.softcap > 0) capScores(t.vectors, keys, 1, a.softcap * kLog2E, scores);
      if (needsMask(a, t, key, keys)) maskScores(a, t, key, keys, -FLT_MAX, scores);
      onlineSoftmax(t.vectors, keys, scores, s);
      const KeyRows valued = v.tileRows(a, tile, key, keys, packed);
      tileProduct<Order::RowContiguous>({d, t.vectors, keys, valued.data, valued.stride, scores, kTileRows, s.out, kTileRows,
                                         key == tile.keysBegin ? Start::Zero : Start::Scale, s.factor});
    }
  }
};

/** Segments of few rows go their own way, whatever else is in the call. */
template <class Source>
void attentionFrom(const AttentionArgs& a, const Source& k, const Source& v) {
  Workspace<Segment> sorted(larger(1, a.segmentCount));
  AttentionArgs few = a, many = a;
  few.segmentCount = many.segmentCount = 0;
  for (int64_t s = 0; s < a.segmentCount; s++) {
    if (isThin(a, a.segments[s].qLength * groupSize(a))) sorted[few.segmentCount++] = a.segments[s];
    else sorted[a.segmentCount - ++many.segmentCount] = a.segments[s];
  }
  few.segments = sorted.get();
  many.segments = sorted.get() + few.segmentCount;
  if (few.segmentCount > 0) attentionThin(few, k, v);
  if (many.segmentCount > 0) attentionOver(many, PlainTiles<Source>{many, k, v});
}

}  // namespace

void attention(const AttentionArgs& a) {
  const int64_t stride = a.kvHeads * a.headDim;
  attentionFrom(a, FlatSource{a.k, stride}, FlatSource{a.v, stride});
}

void cachedAttention(const CachedAttentionArgs& c) {
  withCache(c, [&](const auto& k, const auto& v) { attentionFrom(withoutCache(c), k, v); });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
