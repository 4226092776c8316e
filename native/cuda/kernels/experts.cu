// A mixture's router, the order of its tokens, the sum of its experts' answers and their activation, each with its backward
// pass. Not here: the products of experts.
#include "activation.h"

struct RouterArguments {
  const float* logits;
  float* weights;  // [tokens, k]
  i32* chosen;     // [tokens, k]
  u32 tokens, experts, k, normalized;
};

/** A warp a token: the k largest logits, descending, the lower expert first among equals, and their softmax. */
KERNEL(router, RouterArguments, 256, 1, 0) {
  const u32 token = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= a.tokens) return;
  const float* logits = a.logits + (u64)token * a.experts;
  float* weights = a.weights + (u64)token * a.k;
  i32* chosen = a.chosen + (u64)token * a.k;
  float last = INFINITY, largest = 0, total = 0;
  i32 lastExpert = -1;
  for (u32 j = 0; j < a.k; j++) {
    // The first of those that come after the last one chosen. None: a logit is NaN, and so are the weights then.
    float best = -INFINITY;
    u32 expert = a.experts;
    for (u32 e = lane; e < a.experts; e += 32) {
      const float x = logits[e];
      const bool after = x < last || (x == last && (i32)e > lastExpert);
      if (after && (expert == a.experts || x > best)) {
        best = x;
        expert = e;
      }
    }
    UNROLL
    for (int d = 16; d > 0; d >>= 1) {
      const float otherBest = __shfl_xor_sync(kWholeWarp, best, d);
      const u32 other = __shfl_xor_sync(kWholeWarp, expert, d);
      const bool better = other < a.experts && (expert == a.experts || otherBest > best || (otherBest == best && other < expert));
      if (better) {
        best = otherBest;
        expert = other;
      }
    }
    if (expert == a.experts) {
      best = notANumber();
      expert = j;
    }
    last = best;
    lastExpert = (i32)expert;
    if (j == 0) largest = best;
    if (a.normalized) total += expf(best - largest);
    if (lane == 0) {
      chosen[j] = (i32)expert;
      weights[j] = best;
    }
  }
  if (!a.normalized) {
    for (u32 e = lane; e < a.experts; e += 32) total += expf(logits[e] - largest);
    total = warpSum(total);
  }
  __syncwarp();
  for (u32 j = lane; j < a.k; j += 32) weights[j] = expf(weights[j] - largest) / total;
}

struct RouterBackwardArguments {
  const float* logits;
  const float* weights;
  const i32* chosen;
  const float* dWeights;
  float* dLogits;
  u32 tokens, experts, k, normalized;
};

/** A warp a token. Where weights are not normalized, the other experts' logits count through the softmax's sum. */
KERNEL(routerBackward, RouterBackwardArguments, 256, 1, 0) {
  const u32 token = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= a.tokens) return;
  const float* logits = a.logits + (u64)token * a.experts;
  float* dLogits = a.dLogits + (u64)token * a.experts;
  const u64 pair = (u64)token * a.k;
  float mean = 0;
  for (u32 j = lane; j < a.k; j += 32) mean = fmaf(a.weights[pair + j], a.dWeights[pair + j], mean);
  mean = warpSum(mean);
  float top = -INFINITY, total = 0;
  if (!a.normalized) {
    for (u32 e = lane; e < a.experts; e += 32) top = fmaxf(top, logits[e]);
    top = warpMaximum(top);
    for (u32 e = lane; e < a.experts; e += 32) total += expf(logits[e] - top);
    total = warpSum(total);
  }
  for (u32 e = lane; e < a.experts; e += 32) dLogits[e] = a.normalized ? 0.0f : -mean * expf(logits[e] - top) / total;
  __syncwarp();
  for (u32 j = lane; j < a.k; j += 32) {
    const u32 expert = (u32)a.chosen[pair + j];
    if (expert < a.experts) dLogits[expert] = a.weights[pair + j] * (a.dWeights[pair + j] - mean);
  }
}

struct SortByExpertArguments {
  const i32* chosen;
  i32* offsets;  // [experts + 1]
  i32* slots;    // [pairs]
  i32* tokens;   // [pairs]
  u32 pairs, experts, k;
};

/** A block an expert: it counts the pairs of those before it, then lines up its own in the order of tokens. */
KERNEL(sortByExpert, SortByExpertArguments, 256, 1, 0) {
  SHARED_ARRAY(u32, counts, 8);
  const i32 expert = (i32)blockIdx.x;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 before = 0;
  for (u32 i = threadIdx.x; i < a.pairs; i += 256) before += a.chosen[i] < expert;
  UNROLL
  for (int d = 16; d > 0; d >>= 1) before += __shfl_xor_sync(kWholeWarp, before, d);
  if (lane == 0) counts[warp] = before;
  __syncthreads();
  u32 slot = 0;
  for (u32 w = 0; w < 8; w++) slot += counts[w];
  if (threadIdx.x == 0) a.offsets[expert] = (i32)slot;
  for (u32 start = 0; start < a.pairs; start += 256) {
    const u32 i = start + threadIdx.x;
    const bool mine = i < a.pairs && a.chosen[i] == expert;
    const u32 alike = __ballot_sync(kWholeWarp, mine);
    __syncthreads();
    if (lane == 0) counts[warp] = __popc(alike);
    __syncthreads();
    u32 own = slot + __popc(alike & ((1u << lane) - 1));
    for (u32 w = 0; w < 8; w++) {
      if (w < warp) own += counts[w];
      slot += counts[w];
    }
    if (mine) {
      a.slots[i] = (i32)own;
      a.tokens[own] = (i32)(i / a.k);
    }
  }
  if (threadIdx.x == 0 && (u32)expert + 1 == a.experts) a.offsets[a.experts] = (i32)slot;
}

struct CombineExpertsArguments {
  const float* z;
  const i32* slots;       // [tokens, k]
  const float* weights;   // [tokens, k] or absent
  const float* residual;  // [tokens, width] or absent
  float* y;               // may be residual
  u32 k, width;
};

/** y[t] = residual[t] + sum over j of weights[t, j] z[slots[t, j]]: blockIdx.x = token, y = 1024 columns. */
KERNEL(combineExperts, CombineExpertsArguments, 256, 1, 0) {
  const u64 pair = (u64)blockIdx.x * a.k;
  UNROLL
  for (u32 n = 0; n < 4; n++) {
    const u32 c = blockIdx.y * 1024 + n * 256 + threadIdx.x;
    if (c >= a.width) continue;
    float sum = 0;
    for (u32 j = 0; j < a.k; j++) {
      const float value = a.z[(u64)a.slots[pair + j] * a.width + c];
      sum = fmaf(a.weights ? a.weights[pair + j] : 1.0f, value, sum);
    }
    const u64 to = (u64)blockIdx.x * a.width + c;
    a.y[to] = a.residual ? a.residual[to] + sum : sum;
  }
}

struct CombineExpertsBackwardArguments {
  const float* dy;
  const float* z;
  const i32* slots;
  const float* weights;
  float* dz;  // may be z
  float* dWeights;
  u32 k, width;
};

/** A block a pair (t, j): dz[slot] = weights dy[t], dWeights = dy[t] . z[slot]. */
KERNEL(combineExpertsBackward, CombineExpertsBackwardArguments, 256, 1, 0) {
  const u32 pair = blockIdx.x;
  const u64 from = (u64)(pair / a.k) * a.width, to = (u64)a.slots[pair] * a.width;
  const float weight = a.weights[pair];
  float sum = 0;
  for (u32 c = threadIdx.x; c < a.width; c += 256) {
    const float dy = a.dy[from + c];
    sum = fmaf(dy, a.z[to + c], sum);
    a.dz[to + c] = weight * dy;
  }
  sum = blockSum<256>(sum);
  if (threadIdx.x == 0) a.dWeights[pair] = sum;
}

/** y and its slopes by gate and by up. With limit > 0: (up + 1) gate sigmoid(alpha gate) within limits. */
struct Gated {
  float y, byGate, byUp;
};

FN Gated gatedOf(u32 activation, float limit, float alpha, float gate, float up) {
  if (!(limit > 0)) {
    const float2 activated = activate(activation, gate);
    return {activated.x * up, activated.y * up, activated.x};
  }
  // NaN stays NaN.
  const float g = gate > limit ? limit : gate, u = up > limit ? limit : up < -limit ? -limit : up;
  const float s = 1.0f / (1.0f + expf(-alpha * g));
  const float byGate = gate > limit ? 0.0f : (u + 1) * (s + alpha * g * s * (1 - s));
  return {(u + 1) * g * s, byGate, fabsf(up) > limit ? 0.0f : g * s};
}

struct ExpertActivationArguments {
  const float* x;   // [rows, 2, width]: gates, ups
  const float* dy;  // absent: forward
  float* y;         // [rows, width], or backward [rows, 2, width], which may be x
  u64 count;        // rows * width
  u32 width, activation;
  float limit, alpha;
};

/** Forward, or where dy is there the gradient of x; a block takes 1024 elements. */
KERNEL(expertActivation, ExpertActivationArguments, 256, 1, 0) {
  _Pragma("unroll 1")
  for (u32 n = 0; n < 4; n++) {
    const u64 i = (u64)blockIdx.x * 1024 + n * 256 + threadIdx.x;
    if (i >= a.count) continue;
    const u64 at = i + divide(i, a.width) * a.width;
    const Gated found = gatedOf(a.activation, a.limit, a.alpha, a.x[at], a.x[at + a.width]);
    if (a.dy) {
      const float dy = a.dy[i];
      a.y[at] = dy * found.byGate;
      a.y[at + a.width] = dy * found.byUp;
    } else {
      a.y[i] = found.y;
    }
  }
}
