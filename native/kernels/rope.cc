// Rotary position embedding (Su et al. 2021) in "rotate half" order: element i of a head turns with element
// i + half, where the first 2 half elements of a head turn and the rest stay. Also its own backward pass: the same
// rotation the other way. Not here: the tables (src/nn).
#include "../simd.h"
#include "../threads.h"
#include "declarations.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

void rope(const float* x, const int32_t* positions, const float* cosTable, const float* sinTable, float direction,
          float* y, int64_t t, int64_t heads, int64_t headDim, int64_t half) {
  const int64_t width = heads * headDim;
  parallelRange(t, larger(1, 8192 / larger(1, width)), [&](int64_t begin, int64_t end, int) {
    for (int64_t token = begin; token < end; token++) {
      const float* cosines = cosTable + positions[token] * half;
      const float* sines = sinTable + positions[token] * half;
      for (int64_t head = 0; head < heads; head++) {
        const float* from = x + token * width + head * headDim;
        float* to = y + token * width + head * headDim;
        eachVector(0, half, [&](int64_t i, const auto& memory) {
          const Vec a = memory.load(from + i), b = memory.load(from + half + i);
          const Vec c = memory.load(cosines + i), s = memory.load(sines + i) * direction;
          memory.store(to + i, multiplyAdd(a, c, -b * s));
          memory.store(to + half + i, multiplyAdd(b, c, a * s));
        });
        for (int64_t i = 2 * half; i < headDim && to != from; i++) to[i] = from[i];
      }
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
