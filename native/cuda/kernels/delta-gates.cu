// The gates of the delta rule, g = -exp(logDecay) softplus(a + timeBias) and beta = sigmoid(b), and their gradients. Yang et
// al. 2024, "Gated delta networks".
#include "../device.h"

/** log(1 + e^x), as torch: x itself past 20. */
FN float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
FN float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

struct DeltaGatesArguments {
  const float* a;
  const float* b;
  const float* logDecay;  // [heads]
  const float* timeBias;  // [heads]
  const float* dg;        // absent: forward
  const float* dBeta;
  float* first;   // g, or backward da
  float* second;  // beta, or backward db
  u64 count;
  u32 heads;
};

/** A thread a token's head. */
KERNEL(deltaGates, DeltaGatesArguments, 256, 1, 0) {
  const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i >= a.count) return;
  const u32 head = (u32)(i - divide(i, a.heads) * a.heads);
  const float x = a.a[i] + a.timeBias[head], rate = -expf(a.logDecay[head]), s = logistic(a.b[i]);
  if (a.dg) {
    a.first[i] = a.dg[i] * rate * (x > 20.0f ? 1.0f : logistic(x));
    a.second[i] = a.dBeta[i] * s * (1.0f - s);
  } else {
    a.first[i] = rate * softplus(x);
    a.second[i] = s;
  }
}

struct DeltaGatesSumsArguments {
  const float* a;
  const float* logDecay;
  const float* timeBias;
  const float* dg;
  float* dLogDecay;  // [heads] or absent, +=
  float* dTimeBias;  // [heads] or absent, +=
  u32 tokens, heads;
};

/** A block a head. */
KERNEL(deltaGatesSums, DeltaGatesSumsArguments, 256, 1, 0) {
  const u32 head = blockIdx.x;
  const float rate = -expf(a.logDecay[head]), bias = a.timeBias[head];
  float decay = 0, time = 0;
  for (u32 t = threadIdx.x; t < a.tokens; t += 256) {
    const u64 at = (u64)t * a.heads + head;
    const float x = a.a[at] + bias, slope = a.dg[at] * rate;
    decay = fmaf(slope, softplus(x), decay);
    time = fmaf(slope, x > 20.0f ? 1.0f : logistic(x), time);
  }
  decay = blockSum<256>(decay);
  time = blockSum<256>(time);
  if (threadIdx.x > 0) return;
  if (a.dLogDecay) a.dLogDecay[head] += decay;
  if (a.dTimeBias) a.dTimeBias[head] += time;
}
