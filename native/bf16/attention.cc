// Attention's forward pass with products of bf16 pairs: kernels/attention.cc, a tile's products in half the steps.
// Not here: the order of tiles (../kernels/attention-order.h), the backward pass (attention-backward.cc).
#include <cfloat>

#include "../kernels/attention-order.h"
#include "declarations.h"
#include "key-copies.h"
#include "segments.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/**
 * weights [keys/2][64] = pairs of exp2(unit * score - largest); largest and total move on, and factor is what older
 * sums shrink by. The total sums weights that are not yet rounded.
 */
void onlineSoftmax(int vectors, int64_t keys, float unit, const float* scores, Pair* weights, const TileSums& s) {
  for (int v = 0; v < vectors; v++) {
    const int lane = v * kLanes;
    const float* column = scores + lane;
    Vec best = broadcast(kHiddenScore), other = best;
    for (int64_t j = 0; j < keys; j += 2) {
      best = maximum(load(column + j * kTileRows), best);
      other = maximum(load(column + (j + 1) * kTileRows), other);
    }
    const Vec before = load(s.largest + lane);
    const Vec largest = maximum(maximum(best, other) * unit, before);
    const Vec factor = quickExponentialBase2(before - largest);
    Vec total = load(s.total + lane) * factor, otherTotal = {};
    for (int64_t j = 0; j < keys; j += 2) {
      const Vec first = quickExponentialBase2(multiplyAdd(load(column + j * kTileRows), broadcast(unit), -largest));
      const Vec second =
          quickExponentialBase2(multiplyAdd(load(column + (j + 1) * kTileRows), broadcast(unit), -largest));
      _mm512_storeu_si512(weights + j / 2 * kTileRows + lane, pairsOf(toHalves(first, second)));
      total += first;
      otherTotal += second;
    }
    store(s.largest + lane, largest);
    store(s.total + lane, total + otherTotal);
    store(s.factor + lane, factor);
  }
}

struct PairTiles {
  const AttentionArgs& a;
  const KeyCopies k, v;

  template <class Source>
  PairTiles(const AttentionArgs& args, const Source& keys, const Source& values)
      : a(args), k(args, keys, Pairing::Depth), v(args, values, Pairing::Keys) {}

  static constexpr int64_t kKeyUnit = 2;
  static int64_t scratchSize(int64_t headDim) { return (headDim / 2 + kTileKeys + kTileKeys / 2) * kTileRows; }

  void run(const RowTile& tile, const TileRows& t, const TileSums& s, float* scratch) const {
    const int64_t d = a.headDim;
    float* scores = scratch;                                                   // [keys][64]
    Pair* q = reinterpret_cast<Pair*>(scores + kTileKeys * kTileRows);         // [D/2][64]
    Pair* weights = q + d / 2 * kTileRows;                                     // [keys/2][64]
    rowsToLanePairs(t, a.q, d, q);
    for (int r = 0; r < kTileRows; r++) {
      s.largest[r] = -FLT_MAX;
      s.total[r] = 0;
    }
    if (tile.keysBegin >= tile.keysEnd) std::memset(s.out, 0, sizeof(float) * d * kTileRows);
    for (int64_t key = tile.keysBegin; key < tile.keysEnd; key += kTileKeys) {
      const int64_t keys = smaller(kTileKeys, tile.keysEnd - key);
      tileProduct<Order::DepthContiguous, PairTerms>({keys, t.vectors, d / 2, k.from(tile, key), d / 2, q, kTileRows,
                                                      scores, kTileRows, Start::Zero, nullptr});
      if (a.softcap > 0) capScores(t.vectors, keys, a.scale / a.softcap, a.softcap / a.scale, scores);
      if (needsMask(a, t, key, keys)) maskScores(a, t, key, keys, kHiddenScore, scores);
      onlineSoftmax(t.vectors, keys, a.scale * kLog2E, scores, weights, s);
      tileProduct<Order::RowContiguous, PairTerms>({d, t.vectors, keys / 2, v.from(tile, key), d, weights, kTileRows,
                                                    s.out, kTileRows,
                                                    key == tile.keysBegin ? Start::Zero : Start::Scale, s.factor});
    }
  }
};

}  // namespace

void attentionInPairs(const AttentionArgs& a, const KernelTable& plain) {
  const DividedSegments divided(a);
  if (divided.plain.segmentCount > 0) plain.attention(divided.plain);
  if (divided.paired.segmentCount > 0) attentionOver(divided.paired, PairTiles(divided.paired, a.k, a.v));
}

void cachedAttentionInPairs(const CachedAttentionArgs& c, const KernelTable& plain) {
  const DividedSegments divided(withoutCache(c));
  CachedAttentionArgs rest = c;
  rest.segments = divided.plain.segments;
  rest.segmentCount = divided.plain.segmentCount;
  if (rest.segmentCount > 0) plain.cachedAttention(rest);
  if (divided.paired.segmentCount == 0) return;
  withCache(c, [&](const auto& k, const auto& v) { attentionOver(divided.paired, PairTiles(divided.paired, k, v)); });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
