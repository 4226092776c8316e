// Attention's backward pass with products of bf16 pairs: kernels/attention-backward.cc, a tile's products in half the
// steps. Not here: the order of tiles (../kernels/attention-backward-order.h), the forward pass (attention.cc).
#include "../kernels/attention-backward-order.h"
#include "declarations.h"
#include "key-copies.h"
#include "segments.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kTileSize = kTileKeys * kTileRows;

/** One thread's working memory. */
struct Scratch {
  float *scores, *dWeights, *dq, *delta, *lse, *scale;  // [keys][64] [keys][64] [D][64] [64] [64] [64]
  Pair *q, *dOut, *qRows, *dOutRows;                    // [D/2][64] [D/2][64] [rows/2][D] [rows/2][D]
  Pair *dScorePairs;                                    // [keys/2][64]
  uint16_t *weights, *dScores;                          // [keys][64] [keys][64]
  static int64_t size(int64_t headDim) {
    return 2 * kTileSize + (headDim + 3) * kTileRows + 4 * headDim / 2 * kTileRows + 3 * kTileSize / 2;
  }
  Scratch(float* memory, int64_t headDim) {
    scores = memory;
    dWeights = scores + kTileSize;
    dq = dWeights + kTileSize;
    delta = dq + headDim * kTileRows;
    lse = delta + kTileRows;
    scale = lse + kTileRows;
    q = reinterpret_cast<Pair*>(scale + kTileRows);
    dOut = q + headDim / 2 * kTileRows;
    qRows = dOut + headDim / 2 * kTileRows;
    dOutRows = qRows + headDim / 2 * kTileRows;
    dScorePairs = dOutRows + headDim / 2 * kTileRows;
    weights = reinterpret_cast<uint16_t*>(dScorePairs + kTileSize / 2);
    dScores = weights + kTileSize;
  }
};

/** Scores to probabilities P, and dP to dS = P * (dP - delta), the latter in both layouts; capSlope takes `over`. */
template <bool Capped>
void softmaxBackward(int vectors, int64_t keys, float unit, float over, const Scratch& s) {
  for (int v = 0; v < vectors; v++) {
    const int lane = v * kLanes;
    const Vec lse = load(s.lse + lane), delta = load(s.delta + lane);
    for (int64_t j = 0; j < keys; j += 2) {
      const int64_t first = j * kTileRows + lane, second = first + kTileRows;
      const Vec p0 = quickExponentialBase2(multiplyAdd(load(s.scores + first), broadcast(unit), -lse));
      const Vec p1 = quickExponentialBase2(multiplyAdd(load(s.scores + second), broadcast(unit), -lse));
      storeHalves(toHalves(p0, p1), s.weights + first, s.weights + second);
      Vec d0 = p0 * (load(s.dWeights + first) - delta), d1 = p1 * (load(s.dWeights + second) - delta);
      if constexpr (Capped) {
        d0 *= capSlope(load(s.scores + first), over);
        d1 *= capSlope(load(s.scores + second), over);
      }
      const __m512i dScores = toHalves(d0, d1);
      storeHalves(dScores, s.dScores + first, s.dScores + second);
      _mm512_storeu_si512(s.dScorePairs + j / 2 * kTileRows + lane, pairsOf(dScores));
    }
  }
}

struct PairBackwardTiles {
  const AttentionBackwardArgs& b;
  const KeyCopies k, v, kPairs;

  explicit PairBackwardTiles(const AttentionBackwardArgs& args)
      : b(args),
        k(args.f, args.f.k, Pairing::Depth),
        v(args.f, args.f.v, Pairing::Depth),
        kPairs(args.f, args.f.k, Pairing::Keys) {}

  static constexpr int64_t kKeyUnit = 2;
  static int64_t scratchSize(int64_t headDim) { return Scratch::size(headDim); }
  float dkFactor() const { return b.f.scale; }

  void run(const RowTile& tile, float* dk, float* dv, bool fresh, float* memory) const {
    const AttentionArgs& a = b.f;
    const int64_t d = a.headDim;
    const Scratch s(memory, d);
    TileRows t;
    locateRows(a, tile, t);
    rowsToRowPairs(t, a.q, d, s.qRows);
    rowsToRowPairs(t, b.dOut, d, s.dOutRows);
    rowsToLanePairs(t, a.q, d, s.q);
    rowsToLanePairs(t, b.dOut, d, s.dOut);
    for (int r = 0; r < kTileRows; r++) {
      s.delta[r] = 0;
      s.scale[r] = a.scale;
      s.lse[r] = r < t.rows ? a.lse[t.scalar[r]] * kLog2E : 0;
    }
    // Of the dOut that dP is made of, so that the two cancel where a row's weight is all on one key.
    rowDeltas(b, t, [](Vec dOut) { return rounded(dOut); }, s.delta);
    const Start start = fresh ? Start::Zero : Start::Add;
    const int64_t rowPairs = divideUp(t.rows, 2);
    const auto* weights = reinterpret_cast<const Pair*>(s.weights);
    const auto* dScores = reinterpret_cast<const Pair*>(s.dScores);
    for (int64_t key = tile.keysBegin; key < tile.keysEnd; key += kTileKeys) {
      const int64_t keys = smaller(kTileKeys, tile.keysEnd - key);
      tileProduct<Order::DepthContiguous, PairTerms>({keys, t.vectors, d / 2, k.from(tile, key), d / 2, s.q,
                                                      kTileRows, s.scores, kTileRows, Start::Zero, nullptr});
      tileProduct<Order::DepthContiguous, PairTerms>({keys, t.vectors, d / 2, v.from(tile, key), d / 2, s.dOut,
                                                      kTileRows, s.dWeights, kTileRows, Start::Zero, nullptr});
      if (a.softcap > 0) capScores(t.vectors, keys, a.scale / a.softcap, a.softcap / a.scale, s.scores);
      if (needsMask(a, t, key, keys)) maskScores(a, t, key, keys, kHiddenScore, s.scores);
      if (a.softcap > 0) softmaxBackward<true>(t.vectors, keys, a.scale * kLog2E, a.scale / a.softcap, s);
      else softmaxBackward<false>(t.vectors, keys, a.scale * kLog2E, 0, s);
      const int64_t at = (key - tile.keysBegin) * d;
      tileProduct<Order::DepthContiguous, PairTerms>({keys, d / kLanes, rowPairs, weights, kTileRows / 2, s.dOutRows,
                                                      d, dv + at, d, start, nullptr});
      tileProduct<Order::DepthContiguous, PairTerms>({keys, d / kLanes, rowPairs, dScores, kTileRows / 2, s.qRows, d,
                                                      dk + at, d, start, nullptr});
      tileProduct<Order::RowContiguous, PairTerms>({d, t.vectors, keys / 2, kPairs.from(tile, key), d, s.dScorePairs,
                                                    kTileRows, s.dq, kTileRows,
                                                    key == tile.keysBegin ? Start::Zero : Start::Add, nullptr});
    }
    lanesToRows(t, s.dq, d, s.scale, b.dq);
  }
};

}  // namespace

void attentionBackwardInPairs(const AttentionBackwardArgs& b, const KernelTable& plain) {
  const DividedSegments divided(b.f);
  AttentionBackwardArgs part = b;
  part.dSinks = nullptr;
  // First, as it also clears the gradients of tokens outside its own segments.
  part.f = divided.plain;
  if (divided.pairedQueries < b.f.tq) plain.attentionBackward(part);
  part.f = divided.paired;
  if (part.f.segmentCount > 0) attentionBackwardOver(part, PairBackwardTiles(part));
  addSinkGradients(b);
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
