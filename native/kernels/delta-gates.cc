// The gates of the gated delta rule, forward and backward: a decay and a learning rate a head and token. There are few of
// them; a task is a head, so that its parameters' sums have one order. Not here: the rule (delta-rule.cc).
#include <cmath>

#include "../simd.h"
#include "../threads.h"
#include "declarations.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

/** log(1 + e^x), as torch has it: x itself past 20. */
float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

}  // namespace

void deltaGates(const float* a, const float* b, const float* logDecay, const float* timeBias, float* g, float* beta,
                int64_t t, int64_t heads) {
  parallelRange(t, larger(1, 1024 / larger(1, heads)), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * heads; i < end * heads; i++) {
      const int64_t h = i % heads;
      g[i] = -std::exp(logDecay[h]) * softplus(a[i] + timeBias[h]);
      beta[i] = sigmoid(b[i]);
    }
  });
}

void deltaGatesBackward(const float* a, const float* b, const float* logDecay, const float* timeBias, const float* dg,
                        const float* dBeta, float* da, float* db, float* dLogDecay, float* dTimeBias, int64_t t,
                        int64_t heads) {
  parallelTasks(heads, [&](int64_t h, int) {
    const float rate = -std::exp(logDecay[h]);
    double decaySum = 0, biasSum = 0;
    for (int64_t i = h; i < t * heads; i += heads) {
      const float x = a[i] + timeBias[h];
      const float slope = dg[i] * rate * (x > 20.0f ? 1.0f : sigmoid(x));
      if (dLogDecay) decaySum += dg[i] * rate * softplus(x);
      biasSum += slope;
      da[i] = slope;
      const float s = sigmoid(b[i]);
      db[i] = dBeta[i] * s * (1.0f - s);
    }
    if (dLogDecay) dLogDecay[h] += static_cast<float>(decaySum);
    if (dTimeBias) dTimeBias[h] += static_cast<float>(biasSum);
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
