// Soft caps and sinks of attention: scores bent by tanh before they are masked, and a score a head that takes weight and
// gives nothing. The tiles' own loops know neither. Not here: those loops (attention.cc, attention-thin.h, ../bf16/).
#pragma once
#include <cmath>

#include "../simd-math.h"
#include "attention-tile.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** What products of q and k are multiplied by before capScores: with a cap, scores / cap; without one, log2 units. */
LOWRANK_INLINE float scoreUnit(const AttentionArgs& a) {
  return a.softcap > 0 ? a.scale / a.softcap : a.scale * kLog2E;
}

/** scores [keys][64] = to * tanh(by * scores). */
inline void capScores(int vectors, int64_t keys, float by, float to, float* scores) {
  for (int v = 0; v < vectors; v++) {
    for (int64_t j = 0; j < keys; j++) {
      float* at = scores + j * kTileRows + v * kLanes;
      store(at, hyperbolicTangent(load(at) * by) * to);
    }
  }
}

/** The slope of the cap where `capped` = to * tanh(...); 0 for hidden scores, however large. */
LOWRANK_INLINE Vec capSlope(Vec capped, float over) {
  const Vec tangent = capped * over;
  return maximum(1.0f - tangent * tangent, Vec{});
}

/** Lets the sink of one row into its sums: what `out` is to be multiplied by; largest (log2 units) and total move on. */
inline float withSink(float sink, float& largest, float& total) {
  const float score = sink * kLog2E, best = score > largest ? score : largest, shrink = exp2f(largest - best);
  total = total * shrink + exp2f(score - best);
  largest = best;
  return shrink;
}

/** The weight that the sink of a row of lse took. */
inline float sinkWeight(const AttentionArgs& a, int64_t row) { return expf(a.sinks[row % a.heads] - a.lse[row]); }

/** dSinks[h] -= sum over the rows of head h of exp(sink - lse) * (dOut . out), in the order of rows. */
inline void addSinkGradients(const AttentionBackwardArgs& b) {
  const AttentionArgs& a = b.f;
  if (!b.dSinks || !a.sinks) return;
  for (int64_t h = 0; h < a.heads; h++) {
    double sum = 0;
    for (int64_t s = 0; s < a.segmentCount; s++) {
      for (int64_t i = 0; i < a.segments[s].qLength; i++) {
        const int64_t row = (a.segments[s].qStart + i) * a.heads + h;
        Vec delta = {};
        eachVector(0, a.headDim, [&](int64_t d, const auto& memory) {
          delta = multiplyAdd(memory.load(b.dOut + row * a.headDim + d), memory.load(a.out + row * a.headDim + d), delta);
        });
        sum += static_cast<double>(sinkWeight(a, row)) * sumLanes(delta);
      }
    }
    b.dSinks[h] -= static_cast<float>(sum);
  }
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
