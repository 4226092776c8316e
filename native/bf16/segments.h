// Which segments have their products in bf16: those with rows for whole tiles, as training and long prompts have.
// Decoding and short prompts gain nothing and stay in f32. Each segment is judged alone, by its shape, so that a
// sequence is treated the same in any company and in both passes.
#pragma once
#include "../kernels/attention-tile.h"
#include "../kernels/workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kLeastQueries = 16;

LOWRANK_INLINE bool takesPairs(const AttentionArgs& a, const Segment& s) {
  return a.headDim % kLanes == 0 && a.scale > 0 && s.qLength >= kLeastQueries &&
         s.qLength * groupSize(a) >= kTileRows;
}

/** The call in two: the segments with products of pairs, and the others. */
class DividedSegments {
 public:
  explicit DividedSegments(const AttentionArgs& a) : paired(a), plain(a), list_(larger(1, a.segmentCount)) {
    int64_t filled = 0;
    for (const bool wanted : {true, false}) {
      AttentionArgs& part = wanted ? paired : plain;
      const int64_t first = filled;
      for (int64_t s = 0; s < a.segmentCount; s++) {
        if (takesPairs(a, a.segments[s]) == wanted) list_[filled++] = a.segments[s];
      }
      part.segments = list_.get() + first;
      part.segmentCount = filled - first;
    }
    for (int64_t s = 0; s < paired.segmentCount; s++) pairedQueries += paired.segments[s].qLength;
  }

  AttentionArgs paired, plain;
  int64_t pairedQueries = 0;

 private:
  Workspace<Segment> list_;
};

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
