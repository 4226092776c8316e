// Cross-entropy over a vocabulary, loss and gradient. A row is read once for its maximum and sum of exponentials,
// block by block (a block stays in the first cache between its two passes), and once more for the gradient.
// Not here: the mean over tokens, which is the caller's gradScale.
#include <cfloat>
#include <cmath>

#include "../simd-math.h"
#include "../threads.h"
#include "declarations.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kBlock = 2048;

struct RowSum {
  float largest;
  double total;  // of exp(x - largest)
};

LOWRANK_INLINE float blockLargest(const float* x, int64_t n) {
  Vec a = broadcast(-FLT_MAX), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    a = maximum(load(x + i), a);
    b = maximum(load(x + i + kLanes), b);
    c = maximum(load(x + i + 2 * kLanes), c);
    d = maximum(load(x + i + 3 * kLanes), d);
  }
  for (; i + kLanes <= n; i += kLanes) a = maximum(load(x + i), a);
  float best = largestLane(maximum(maximum(a, b), maximum(c, d)));
  for (; i < n; i++) best = x[i] > best ? x[i] : best;
  return best;
}

RowSum sumOfExponentials(const float* x, int64_t v) {
  RowSum row = {-FLT_MAX, 0};
  for (int64_t begin = 0; begin < v; begin += kBlock) {
    const int64_t n = smaller(kBlock, v - begin);
    const float* block = x + begin;
    const float best = blockLargest(block, n);
    if (best > row.largest) {
      row.total *= exp(static_cast<double>(row.largest) - best);
      row.largest = best;
    }
    const Vec largest = broadcast(row.largest);
    Vec total = {}, other = {};
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
      total += exponential(load(block + i) - largest);
      other += exponential(load(block + i + kLanes) - largest);
    }
    for (; i + kLanes <= n; i += kLanes) total += exponential(load(block + i) - largest);
    if (i < n) {
      // Lanes past the end add nothing: stored apart, and summed by hand.
      float lanes[kLanes];
      store(lanes, exponential(loadFirst(block + i, static_cast<int>(n - i)) - largest));
      for (int64_t lane = 0; lane < n - i; lane++) row.total += lanes[lane];
    }
    row.total += sumLanes(total + other);
  }
  return row;
}

}  // namespace

void crossEntropy(const float* logits, const int32_t* targets, float* loss, float* dLogits, float gradScale, int64_t n,
                  int64_t v) {
  parallelTasks(n, [&](int64_t row, int) {
    const float* x = logits + row * v;
    const RowSum sum = sumOfExponentials(x, v);
    loss[row] = static_cast<float>(log(sum.total) + sum.largest - x[targets[row]]);
    if (!dLogits) return;
    float* d = dLogits + row * v;
    const Vec largest = broadcast(sum.largest);
    const Vec scale = broadcast(static_cast<float>(gradScale / sum.total));
    eachVector(0, v, [&](int64_t i, const auto& memory) {
      memory.store(d + i, exponential(memory.load(x + i) - largest) * scale);
    });
    d[targets[row]] -= gradScale;
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
