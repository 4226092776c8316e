// loss = -log softmax(logits)[target] of each row, a block a row, and the logits' gradient (softmax - onehot) * gradScale.
// Maximum and sum are found in one pass (Milakov & Gimelshein 2018).
#include "../device.h"

struct CrossEntropyArguments {
  const float* logits;
  const i32* targets;
  float* loss;
  float* dLogits;  // absent: the loss alone; may be logits
  u32 width;
  float gradScale;
};

/** Adds (top, sum of exp(x - top)) of others to one's own. */
FN void addExponentials(float& top, float& sum, float otherTop, float otherSum) {
  const float most = fmaxf(top, otherTop);
  sum = sum * expf(top - most) + otherSum * expf(otherTop - most);
  top = most;
}

constexpr u32 kLossThreads = 512;

KERNEL(crossEntropy, CrossEntropyArguments, 512, 1, 0) {
  SHARED_ARRAY(float, tops, kLossThreads / 32);
  SHARED_ARRAY(float, sums, kLossThreads / 32);
  const u32 row = blockIdx.x, tid = threadIdx.x;
  const float* logits = a.logits + (u64)row * a.width;
  const u32 target = (u32)a.targets[row];
  // Before any thread overwrites it. No target has a loss that says so.
  const float wanted = target < a.width ? logits[target] : notANumber();
  float top = -3.0e38f, sum = 0;
  for (u32 c = tid; c < a.width; c += kLossThreads) {
    const float x = logits[c];
    if (x > top) {
      sum = sum * expf(top - x) + 1.0f;
      top = x;
    } else {
      sum += expf(x - top);
    }
  }
  UNROLL
  for (int d = 16; d > 0; d >>= 1) {
    const float otherTop = __shfl_xor_sync(kWholeWarp, top, d), otherSum = __shfl_xor_sync(kWholeWarp, sum, d);
    addExponentials(top, sum, otherTop, otherSum);
  }
  if (tid % 32 == 0) {
    tops[tid / 32] = top;
    sums[tid / 32] = sum;
  }
  __syncthreads();
  top = tops[0];
  sum = sums[0];
  for (u32 w = 1; w < kLossThreads / 32; w++) addExponentials(top, sum, tops[w], sums[w]);
  if (tid == 0) a.loss[row] = logf(sum) - (wanted - top);
  if (!a.dLogits) return;
  float* dLogits = a.dLogits + (u64)row * a.width;
  const float share = a.gradScale / sum;
  for (u32 c = tid; c < a.width; c += kLossThreads) {
    const float probability = expf(logits[c] - top) * share;
    dLogits[c] = c == target ? probability - a.gradScale : probability;
  }
}
