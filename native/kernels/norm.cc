// RMSNorm, forward and backward (Zhang & Sennrich 2019): y = x * rstd * (shift + w), rstd = 1 / sqrt(mean(x^2) + eps).
// The weight's gradient is summed per chunk of rows, then over chunks in order: the same on any number of threads.
#include <cmath>

#include "../simd.h"
#include "../threads.h"
#include "declarations.h"
#include "workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

int64_t rowGrain(int64_t c) { return larger(1, 8192 / larger(1, c)); }

/** Sum over i of f(i), f giving vectors; four chains of additions. */
template <class Term>
LOWRANK_INLINE float sumRow(int64_t c, const Term& term) {
  Vec total[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= c; i += 4 * kLanes) {
    for (int k = 0; k < 4; k++) total[k] = term(i + k * kLanes, WholeVector{}, total[k]);
  }
  eachVector(i, c, [&](int64_t j, const auto& memory) { total[0] = term(j, memory, total[0]); });
  return sumLanes((total[0] + total[1]) + (total[2] + total[3]));
}

/** dx of one row, and dw += when given: dx = rstd * (dy v - x rstd^2 mean(dy v x)) with v = shift + w. */
void backwardRow(const float* x, const float* w, float shift, float rstd, const float* dy, float* dx, bool accumulate,
                 float* dw, int64_t c) {
  if (dw) {
    eachVector(0, c, [&](int64_t i, const auto& memory) {
      const Vec normal = memory.load(x + i) * rstd;
      memory.store(dw + i, multiplyAdd(memory.load(dy + i), normal, memory.load(dw + i)));
    });
  }
  if (!dx) return;
  const float dot = sumRow(c, [&](int64_t i, const auto& memory, Vec total) {
    return multiplyAdd(memory.load(dy + i) * (memory.load(w + i) + shift), memory.load(x + i), total);
  });
  const Vec slope = broadcast(-rstd * rstd * (dot / static_cast<float>(c)));
  eachVector(0, c, [&](int64_t i, const auto& memory) {
    const Vec inner = multiplyAdd(memory.load(x + i), slope, memory.load(dy + i) * (memory.load(w + i) + shift));
    memory.store(dx + i, accumulate ? multiplyAdd(inner, broadcast(rstd), memory.load(dx + i)) : inner * rstd);
  });
}

}  // namespace

void rmsNorm(const float* x, const float* w, float shift, float eps, float* y, float* rstd, int64_t n, int64_t c) {
  parallelRange(n, rowGrain(c), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const float* from = x + row * c;
      const float squares = sumRow(c, [&](int64_t i, const auto& memory, Vec total) {
        const Vec v = memory.load(from + i);
        return multiplyAdd(v, v, total);
      });
      const float r = 1.0f / sqrtf(squares / static_cast<float>(c) + eps);
      rstd[row] = r;
      eachVector(0, c, [&](int64_t i, const auto& memory) {
        memory.store(y + row * c + i, memory.load(from + i) * r * (memory.load(w + i) + shift));
      });
    }
  });
}

void rmsNormBackward(const float* x, const float* w, float shift, const float* rstd, const float* dy, float* dx,
                     bool accumulate, float* dw, int64_t n, int64_t c) {
  if (n == 0 || c == 0) return;
  // At most 64 chunks of at least 32 rows.
  const int64_t chunkRows = larger(32, divideUp(n, 64));
  const int64_t chunks = divideUp(n, chunkRows);
  const int64_t width = roundUp(c, 16);
  Workspace<float> partial(dw ? chunks * width : 0);
  parallelTasks(chunks, [&](int64_t chunk, int) {
    float* sums = dw ? partial.get() + chunk * width : nullptr;
    if (sums) std::memset(sums, 0, static_cast<size_t>(c) * sizeof(float));
    for (int64_t row = chunk * chunkRows; row < smaller(n, (chunk + 1) * chunkRows); row++) {
      backwardRow(x + row * c, w, shift, rstd[row], dy + row * c, dx ? dx + row * c : nullptr, accumulate, sums, c);
    }
  });
  if (!dw) return;
  parallelRange(c, 1024, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) {
      Vec total = memory.load(partial.get() + i);
      for (int64_t chunk = 1; chunk < chunks; chunk++) total += memory.load(partial.get() + chunk * width + i);
      memory.store(dw + i, memory.load(dw + i) + total);
    });
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
