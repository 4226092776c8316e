// What attention's backward pass needs of each row before its products: delta = the sum of dOut * out; and the gradient of
// the sinks, which follows from it.
#include "../device.h"

struct AttentionDeltaArguments {
  const float* out;
  const float* dOut;
  float* delta;  // [rows]
  u32 rows, width;
};

/** A warp a row. */
KERNEL(attentionDelta, AttentionDeltaArguments, 256, 1, 0) {
  const u32 row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= a.rows) return;
  const float* out = a.out + (u64)row * a.width;
  const float* dOut = a.dOut + (u64)row * a.width;
  float sum = 0;
  for (u32 d = lane; d < a.width; d += 32) sum = fmaf(out[d], dOut[d], sum);
  sum = warpSum(sum);
  if (lane == 0) a.delta[row] = sum;
}

struct AttentionSinksArguments {
  const float* sinks;
  const float* lse;
  const float* delta;
  float* dSinks;  // [heads]
  u32 tokens, heads;
};

/** dSinks[head] -= sum over tokens of exp(sink - lse) * delta: a block a head. */
KERNEL(attentionSinks, AttentionSinksArguments, 256, 1, 0) {
  const u32 head = blockIdx.x;
  const float sink = a.sinks[head];
  float sum = 0;
  for (u32 t = threadIdx.x; t < a.tokens; t += 256) {
    const u64 at = (u64)t * a.heads + head;
    sum = fmaf(expf(sink - a.lse[at]), a.delta[at], sum);
  }
  sum = blockSum<256>(sum);
  if (threadIdx.x == 0) a.dSinks[head] -= sum;
}
