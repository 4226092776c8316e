// K or V of all segments in bf16, made once a call for every tile that reads it. A segment's keys lie together for
// each head and are padded by zeros to an even number. Not here: the tiles' own rows (pairs.h).
#pragma once
#include "../kernels/key-source.h"
#include "../kernels/workspace.h"
#include "../threads.h"
#include "pairs.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** Pairs along D, [keys][D/2], or of neighboring keys, [keys/2][D]: the same size. */
enum class Pairing { Depth, Keys };

class KeyCopies {
 public:
  KeyCopies(const AttentionArgs& a, const float* x, Pairing pairing)
      : KeyCopies(a, FlatSource{x, a.kvHeads * a.headDim}, pairing) {}

  template <class Source>
  KeyCopies(const AttentionArgs& a, const Source& source, Pairing pairing)
      : a_(a), firstRow_(a.segmentCount + 1), pairs_(locate() * a.headDim / 2) {
    Workspace<float> decoded(2 * a.headDim * threadCount());
    parallelTasks(a.segmentCount * a.kvHeads, [&](int64_t task, int thread) {
      const int64_t segment = task / a.kvHeads, head = task % a.kvHeads, d = a.headDim;
      const Segment& s = a.segments[segment];
      float* own = decoded.get() + 2 * d * thread;
      Pair* to = at(segment, head, 0);
      for (int64_t key = 0; key < s.kLength; key += 2, to += d) {
        const bool whole = key + 1 < s.kLength;
        const float* first = source.floats(s, key, head * d, d, own);
        const float* second = whole ? source.floats(s, key + 1, head * d, d, own + d) : nullptr;
        if (pairing == Pairing::Keys) {
          pairRows(first, second, d, to);
          continue;
        }
        pairNeighbors(first, d, to);
        if (whole) {
          pairNeighbors(second, d, to + d / 2);
        } else {
          std::memset(to + d / 2, 0, static_cast<size_t>(d / 2) * sizeof(Pair));
        }
      }
    });
  }

  /** From an even key of the tile's segment and head on. */
  const Pair* from(const RowTile& tile, int64_t key) const { return at(tile.segment, tile.kvHead, key); }

 private:
  Pair* at(int64_t segment, int64_t head, int64_t key) const {
    const int64_t keys = firstRow_[segment + 1] - firstRow_[segment];
    return pairs_.get() + (firstRow_[segment] * a_.kvHeads + head * keys + key) * (a_.headDim / 2);
  }

  /** Where each segment's rows begin; returns the number of rows of all heads. */
  int64_t locate() {
    firstRow_[0] = 0;
    for (int64_t s = 0; s < a_.segmentCount; s++) firstRow_[s + 1] = firstRow_[s] + roundUp(a_.segments[s].kLength, 2);
    return firstRow_[a_.segmentCount] * a_.kvHeads;
  }

  const AttentionArgs& a_;
  Workspace<int64_t> firstRow_;  // before pairs_, whose size it gives
  Workspace<Pair> pairs_;
};

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
