// The kernels of a mixture's router: which experts a token goes to with which weight, the order in which experts find
// their tokens, and the sum of what they answer. Everything is a gather, so that sums have one order on any number of
// threads. Not here: the router's own product and the experts' (gemm/).
#include <cfloat>
#include <cmath>
#include <vector>

#include "../simd-math.h"
#include "../threads.h"
#include "declarations.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** Tokens that are worth a thread, at `width` numbers each. */
int64_t grainOf(int64_t width) { return larger(1, 16384 / larger(1, width)); }

/** sum over n of exp(x[i] - largest), and the largest. */
struct Total {
  double largest, sum;
};
Total totalOf(const float* x, int64_t n) {
  double largest = -FLT_MAX, sum = 0;
  for (int64_t i = 0; i < n; i++) largest = x[i] > largest ? x[i] : largest;
  for (int64_t i = 0; i < n; i++) sum += exp(x[i] - largest);
  return {largest, sum};
}

LOWRANK_INLINE float dot(const float* a, const float* b, int64_t n) {
  Vec sum{};
  eachVector(0, n, [&](int64_t i, const auto& memory) { sum = multiplyAdd(memory.load(a + i), memory.load(b + i), sum); });
  return sumLanes(sum);
}

}  // namespace

void router(const float* logits, bool normalized, float* weights, int32_t* chosen, int64_t t, int64_t experts,
            int64_t k) {
  parallelRange(t, grainOf(experts * k), [&](int64_t begin, int64_t end, int) {
    for (int64_t token = begin; token < end; token++) {
      const float* x = logits + token * experts;
      int32_t* own = chosen + token * k;
      float* to = weights + token * k;
      for (int64_t j = 0; j < k; j++) {
        // Of those after the last one in the order (logit down, expert up); NaN comes last.
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++) {
          bool taken = false;
          for (int64_t i = 0; i < j; i++) taken |= own[i] == e;
          if (!taken && (best < 0 || x[e] > x[best] || (std::isnan(x[best]) && !std::isnan(x[e])))) best = e;
        }
        own[j] = static_cast<int32_t>(best);
        to[j] = x[best];
      }
      const Total total = normalized ? totalOf(to, k) : totalOf(x, experts);
      for (int64_t j = 0; j < k; j++) to[j] = static_cast<float>(exp(to[j] - total.largest) / total.sum);
    }
  });
}

void routerBackward(const float* logits, bool normalized, const float* weights, const int32_t* chosen,
                    const float* dWeights, float* dLogits, int64_t t, int64_t experts, int64_t k) {
  parallelRange(t, grainOf(experts), [&](int64_t begin, int64_t end, int) {
    for (int64_t token = begin; token < end; token++) {
      const float *w = weights + token * k, *dw = dWeights + token * k, *x = logits + token * experts;
      float* to = dLogits + token * experts;
      double mean = 0;
      for (int64_t j = 0; j < k; j++) mean += static_cast<double>(w[j]) * dw[j];
      if (normalized) {
        for (int64_t e = 0; e < experts; e++) to[e] = 0;
      } else {
        const Total total = totalOf(x, experts);
        for (int64_t e = 0; e < experts; e++) {
          to[e] = static_cast<float>(-mean * (exp(x[e] - total.largest) / total.sum));
        }
      }
      for (int64_t j = 0; j < k; j++) {
        to[chosen[token * k + j]] = static_cast<float>(static_cast<double>(w[j]) * (dw[j] - mean));
      }
    }
  });
}

void sortByExpert(const int32_t* chosen, int32_t* offsets, int32_t* slots, int32_t* tokens, int64_t t, int64_t k,
                  int64_t bounds) {
  const int64_t experts = bounds - 1;
  for (int64_t e = 0; e < bounds; e++) offsets[e] = 0;
  for (int64_t i = 0; i < t * k; i++) offsets[chosen[i] + 1]++;
  for (int64_t e = 0; e < experts; e++) offsets[e + 1] += offsets[e];
  std::vector<int32_t> next(offsets, offsets + experts);
  for (int64_t i = 0; i < t * k; i++) {
    const int32_t slot = next[static_cast<size_t>(chosen[i])]++;
    slots[i] = slot;
    tokens[slot] = static_cast<int32_t>(i / k);
  }
}

void combineExperts(const float* z, const int32_t* slots, const float* weights, const float* residual, float* y,
                    int64_t t, int64_t k, int64_t c) {
  parallelRange(t, grainOf(c * k), [&](int64_t begin, int64_t end, int) {
    for (int64_t token = begin; token < end; token++) {
      const int32_t* own = slots + token * k;
      const float* factors = weights ? weights + token * k : nullptr;
      eachVector(0, c, [&](int64_t i, const auto& memory) {
        Vec sum{};
        for (int64_t j = 0; j < k; j++) {
          const Vec value = memory.load(z + own[j] * c + i);
          sum = factors ? multiplyAdd(value, broadcast(factors[j]), sum) : sum + value;
        }
        if (residual) sum = sum + memory.load(residual + token * c + i);
        memory.store(y + token * c + i, sum);
      });
    }
  });
}

void combineExpertsBackward(const float* dy, const float* z, const int32_t* slots, const float* weights, float* dz,
                            float* dWeights, int64_t t, int64_t k, int64_t c) {
  parallelRange(t, grainOf(c * k), [&](int64_t begin, int64_t end, int) {
    for (int64_t pair = begin * k; pair < end * k; pair++) {
      const float* from = dy + pair / k * c;
      const int64_t row = slots[pair] * c;
      dWeights[pair] = dot(from, z + row, c);
      const float factor = weights[pair];
      eachVector(0, c, [&](int64_t i, const auto& memory) { memory.store(dz + row + i, memory.load(from + i) * factor); });
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
