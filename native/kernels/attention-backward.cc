// Gradients of attention. Probabilities are computed again from the log-sums of the forward pass (Dao et al. 2022).
// Here: one tile in f32. Not here: the order of tiles (attention-backward-order.h), the forward pass (attention.cc),
// the tile's layout (attention-tile.h), products of bf16 (../bf16/).
#include "../simd-math.h"
#include "attention-backward-order.h"
#include "declarations.h"
#include "tile-product.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** One thread's working memory: lanes [.][64] and rows [64][width]. */
struct BackwardScratch {
  float *q, *dOut, *dq, *probability, *dScore, *qRows, *dOutRows, *delta, *lse, *share, *ones, *packedK, *packedV;
  static int64_t size(int64_t headDim) {
    return (3 * headDim + 2 * kTileKeys + 2 * sumsWidth(headDim) + 4) * kTileRows + 2 * headDim * kTileKeys;
  }
  BackwardScratch(float* memory, int64_t headDim) {
    const int64_t width = sumsWidth(headDim);
    q = memory;
    dOut = q + headDim * kTileRows;
    dq = dOut + headDim * kTileRows;
    probability = dq + headDim * kTileRows;
    dScore = probability + kTileKeys * kTileRows;
    qRows = dScore + kTileKeys * kTileRows;
    dOutRows = qRows + width * kTileRows;
    delta = dOutRows + width * kTileRows;
    lse = delta + kTileRows;
    share = lse + kTileRows;
    ones = share + kTileRows;
    packedK = ones + kTileRows;
    packedV = packedK + headDim * kTileKeys;
  }
};

/** Copies the tile's rows of x to [64][width], zero past headDim. */
void copyRows(const TileRows& t, const float* x, int64_t headDim, int64_t width, float* rows) {
  for (int r = 0; r < t.rows; r++) {
    std::memcpy(rows + r * width, x + t.offset[r], static_cast<size_t>(headDim) * sizeof(float));
    for (int64_t d = headDim; d < width; d++) rows[r * width + d] = 0;
  }
}

/**
 * delta[r] = sum over D of dOut * out, added up in the order of dP's own sums: where a row's weight is all on one key, out
 * is that key's v, and dP - delta is 0 to the bit. An optimizer that divides a gradient by its size makes steps of
 * what rounding leaves there. `outLanes` is working memory [D][64].
 */
void laneDeltas(const AttentionBackwardArgs& b, const TileRows& t, float* outLanes, const BackwardScratch& s) {
  rowsToLanes(t, b.f.out, b.f.headDim, 1.0f, outLanes);
  for (int v = 0; v < t.vectors; v++) {
    Vec total = {};
    for (int64_t d = 0; d < b.f.headDim; d++) {
      const int64_t at = d * kTileRows + v * kLanes;
      total = multiplyAdd(load(outLanes + at), load(s.dOut + at), total);
    }
    store(s.delta + v * kLanes, total);
  }
}

/**
 * Of rows whose keys are all here: delta becomes the sum of P dP of the very P and dP that dS is made of, and `share`
 * what brings P's sum to 1. Both are right but for the rounding of `out` and `lse`, which is large beside what is
 * left where nearly all of a row's weight is on one key. `share` comes as the weight of the row's sink, whose dP is 0.
 */
void settleRows(int vectors, int64_t keys, const BackwardScratch& s) {
  for (int v = 0; v < vectors; v++) {
    const int lane = v * kLanes;
    const Vec lse = load(s.lse + lane), delta = load(s.delta + lane);
    Vec total = load(s.share + lane), rest = -(total * delta);
    for (int64_t j = 0; j < keys; j++) {
      const int64_t at = j * kTileRows + lane;
      const Vec probability = exponentialBase2(load(s.probability + at) - lse);
      total += probability;
      rest = multiplyAdd(probability, load(s.dScore + at) - delta, rest);
    }
    const Vec share = 1.0f / total;
    store(s.share + lane, share);
    store(s.delta + lane, multiplyAdd(rest, share, delta));
  }
}

/** Scores to probabilities and dP to dS = scale * P * (dP - delta), both [keys][64] in place; capSlope takes `over`. */
template <bool Capped>
void softmaxBackward(int vectors, int64_t keys, float scale, float over, const BackwardScratch& s) {
  for (int v = 0; v < vectors; v++) {
    const int lane = v * kLanes;
    const Vec lse = load(s.lse + lane), delta = load(s.delta + lane), share = load(s.share + lane);
    for (int64_t j = 0; j < keys; j++) {
      float* p = s.probability + j * kTileRows + lane;
      float* d = s.dScore + j * kTileRows + lane;
      const Vec score = load(p), probability = exponentialBase2(score - lse) * share;
      store(p, probability);
      const Vec slope = probability * (load(d) - delta) * scale;
      if constexpr (Capped) store(d, slope * capSlope(score, over));
      else store(d, slope);
    }
  }
}

struct PlainBackwardTiles {
  const AttentionBackwardArgs& b;

  static constexpr int64_t kKeyUnit = 1;
  static int64_t scratchSize(int64_t headDim) { return BackwardScratch::size(headDim); }
  float dkFactor() const { return 1; }

  void run(const RowTile& tile, float* dk, float* dv, bool fresh, float* memory) const {
    const AttentionArgs& a = b.f;
    const int64_t d = a.headDim, width = sumsWidth(d);
    const BackwardScratch s(memory, d);
    TileRows t;
    locateRows(a, tile, t);
    rowsToLanes(t, a.q, d, scoreUnit(a), s.q);
    rowsToLanes(t, b.dOut, d, 1.0f, s.dOut);
    copyRows(t, a.q, d, width, s.qRows);
    copyRows(t, b.dOut, d, width, s.dOutRows);
    for (int r = 0; r < kTileRows; r++) {
      s.ones[r] = 1;
      s.share[r] = 1;
      s.lse[r] = r < t.rows ? a.lse[t.scalar[r]] * kLog2E : 0;
    }
    laneDeltas(b, t, s.dq, s);
    const Start start = fresh ? Start::Zero : Start::Add;
    for (int64_t key = tile.keysBegin; key < tile.keysEnd; key += kTileKeys) {
      const int64_t keys = smaller(kTileKeys, tile.keysEnd - key);
      const KeyRows k = keyRows(a, tile, a.k, key, keys, s.packedK);
      const KeyRows v = keyRows(a, tile, a.v, key, keys, s.packedV);
      tileProduct<Order::DepthContiguous>({keys, t.vectors, d, k.data, k.stride, s.q, kTileRows, s.probability,
                                           kTileRows, Start::Zero, nullptr});
      tileProduct<Order::DepthContiguous>({keys, t.vectors, d, v.data, v.stride, s.dOut, kTileRows, s.dScore,
                                           kTileRows, Start::Zero, nullptr});
      if (a.softcap > 0) capScores(t.vectors, keys, 1, a.softcap * kLog2E, s.probability);
      if (needsMask(a, t, key, keys)) maskScores(a, t, key, keys, -__builtin_inff(), s.probability);
      if (tile.keysEnd - tile.keysBegin <= kTileKeys) {
        for (int r = 0; r < kTileRows; r++) s.share[r] = a.sinks && r < t.rows ? sinkWeight(a, t.scalar[r]) : 0;
        settleRows(t.vectors, keys, s);
      }
      if (a.softcap > 0) softmaxBackward<true>(t.vectors, keys, a.scale, 1 / (a.softcap * kLog2E), s);
      else softmaxBackward<false>(t.vectors, keys, a.scale, 0, s);
      const int64_t row = (key - tile.keysBegin) * width;
      tileProduct<Order::DepthContiguous>({keys, width / kLanes, t.rows, s.probability, kTileRows, s.dOutRows, width,
                                           dv + row, width, start, nullptr});
      tileProduct<Order::DepthContiguous>({keys, width / kLanes, t.rows, s.dScore, kTileRows, s.qRows, width,
                                           dk + row, width, start, nullptr});
      tileProduct<Order::RowContiguous>({d, t.vectors, keys, k.data, k.stride, s.dScore, kTileRows, s.dq, kTileRows,
                                         key == tile.keysBegin ? Start::Zero : Start::Add, nullptr});
    }
    lanesToRows(t, s.dq, d, s.ones, b.dq);
  }
};

/** Tokens outside every segment have no gradient. */
void clearUncovered(const AttentionBackwardArgs& b) {
  const AttentionArgs& a = b.f;
  int64_t covered = 0;
  for (int64_t s = 0; s < a.segmentCount; s++) covered += a.segments[s].qLength;
  if (covered == a.tq) return;
  fill(b.dq, a.tq * a.heads * a.headDim, 0);
  fill(b.dk, a.tq * a.kvHeads * a.headDim, 0);
  fill(b.dv, a.tq * a.kvHeads * a.headDim, 0);
}

}  // namespace

void attentionBackward(const AttentionBackwardArgs& b) {
  clearUncovered(b);
  attentionBackwardOver(b, PlainBackwardTiles{b});
  addSinkGradients(b);
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
