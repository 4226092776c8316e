// Updates of parameters: AdamW, AdamW on moments in 8 bits, Lion. Gradients are multiplied by *factor, 1 when absent; below 0
// nothing is updated. Constants that are the same for every element were worked out in double by the host.
// Sources of the formulas: src/backend/contract.ts.

/** What gradients are multiplied by. */
FN float factorOf(const float* factor) { return factor ? *factor : 1.0f; }

struct adamwArguments {
  float* params;
  const float* grads;
  float* m;
  float* v;
  const float* factor;
  u64 count;
  /** 1 - beta; 1 - learningRate weightDecay; learningRate / (1 - beta1^step); sqrt(1 - beta2^step). */
  float beta1, beta2, rest1, rest2, keep, rate, root, epsilon;
};
KERNEL(adamw, adamwArguments, 256, 1, 0) {
  const float factor = factorOf(a.factor);
  if (factor < 0) return;
  const u64 first = static_cast<u64>(blockIdx.x) * 1024 + threadIdx.x;
  for (u64 i = first; i < first + 1024 && i < a.count; i += 256) {
    const float g = a.grads[i] * factor;
    const float m = a.beta1 * a.m[i] + a.rest1 * g;
    const float v = a.beta2 * a.v[i] + a.rest2 * g * g;
    a.m[i] = m;
    a.v[i] = v;
    a.params[i] = a.params[i] * a.keep - a.rate * m / (sqrtf(v) / a.root + a.epsilon);
  }
}

struct lionArguments {
  float* params;
  const float* grads;
  float* m;
  const float* factor;
  u64 count;
  float beta1, beta2, rest1, rest2, keep, rate;
};
KERNEL(lion, lionArguments, 256, 1, 0) {
  const float factor = factorOf(a.factor);
  if (factor < 0) return;
  const u64 first = static_cast<u64>(blockIdx.x) * 1024 + threadIdx.x;
  for (u64 i = first; i < first + 1024 && i < a.count; i += 256) {
    const float g = a.grads[i] * factor, m = a.m[i];
    const float direction = a.beta1 * m + a.rest1 * g;
    const float sign = direction > 0 ? 1.0f : direction < 0 ? -1.0f : direction;  // 0 and NaN stay
    a.params[i] = a.params[i] * a.keep - a.rate * sign;
    a.m[i] = a.beta2 * m + a.rest2 * g;
  }
}

/** Number of midpoints of the map below x, which is the code of the nearest entry; a midpoint itself goes to the lower one. */
FN u32 nearestCode(const float* midpoints, float x) {
  u32 rank = 0;
  UNROLL
  for (u32 half = 128; half > 0; half >>= 1) rank += x > midpoints[rank + half - 1] ? half : 0;
  return rank;
}

struct adamw8bitArguments {
  float* params;
  const float* grads;
  u8* mCodes;
  u8* vCodes;
  float* mAbsmax;
  float* vAbsmax;
  const float* mMap;
  const float* vMap;
  const float* factor;
  u64 count;
  /** learningRate sqrt(1 - beta2^step) / (1 - beta1^step), and epsilon times that root. */
  float beta1, beta2, rest1, rest2, keep, rate, epsilon;
};
/** A block of moments a turn, an element a thread, eight turns a block. */
KERNEL(adamw8bit, adamw8bitArguments, 256, 1, 0) {
  SHARED_ARRAY(float, maps, 512);
  SHARED_ARRAY(float, midpoints, 512);
  constexpr float kSmallestScale = 1e-38f;  // as src/quant/codebook.ts
  const float factor = factorOf(a.factor);
  if (factor < 0) return;
  const u32 t = threadIdx.x;
  maps[t] = a.mMap[t];
  maps[256 + t] = a.vMap[t];
  __syncthreads();
  midpoints[t] = t < 255 ? (maps[t] + maps[t + 1]) / 2 : INFINITY;
  midpoints[256 + t] = t < 255 ? (maps[256 + t] + maps[257 + t]) / 2 : INFINITY;
  __syncthreads();
  const u64 blocks = divideUp(a.count, 256), first = static_cast<u64>(blockIdx.x) * 8;
  for (u64 block = first; block < least(blocks, first + 8); block++) {
    const u64 i = block * 256 + t;
    const bool mine = i < a.count;
    float m = 0, v = 0;
    if (mine) {
      const float g = a.grads[i] * factor;
      // An element whose gradient is not finite keeps its parameter and begins again with moments of zero.
      if (isFinite(g)) {
        m = fmaf(maps[a.mCodes[i]] * a.mAbsmax[block], a.beta1, g * a.rest1);
        v = fmaf(maps[256 + a.vCodes[i]] * a.vAbsmax[block], a.beta2, g * g * a.rest2);
        a.params[i] = a.params[i] * a.keep - a.rate * m / (sqrtf(v) + a.epsilon);
      }
    }
    const float mMost = blockMaximum<256>(fabsf(m)), vMost = blockMaximum<256>(v);
    if (mine) {
      a.mCodes[i] = static_cast<u8>(nearestCode(midpoints, m * (1.0f / fmaxf(mMost, kSmallestScale))));
      a.vCodes[i] = static_cast<u8>(nearestCode(midpoints + 256, v * (1.0f / fmaxf(vMost, kSmallestScale))));
    }
    if (t == 0) {
      a.mAbsmax[block] = mMost;
      a.vAbsmax[block] = vMost;
    }
    __syncthreads();
  }
}
