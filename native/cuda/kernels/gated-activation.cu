// y = activation(gate) * up, and its backward pass. Codes of activations are those of src/backend/cuda/rows.ts.
#include "../device.h"

constexpr u32 kSilu = 0, kGelu = 1;  // 2: gelu by tanh

/** Value and slope. */
FN float2 activate(u32 kind, float x) {
  if (kind == kSilu) {
    const float s = 1.0f / (1.0f + expf(-x));
    return make_float2(x * s, s * (1.0f + x * (1.0f - s)));
  }
  if (kind == kGelu) {
    const float cdf = 0.5f * erfcf(x * -0.70710678118654752f);
    return make_float2(x * cdf, cdf + x * expf(-0.5f * x * x) * 0.39894228040143268f);
  }
  const float k = 0.79788456080286536f;
  const float t = tanhf(k * (x + 0.044715f * x * x * x));
  return make_float2(0.5f * x * (1.0f + t),
                     0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * k * (1.0f + 3.0f * 0.044715f * x * x));
}

struct GatedActivationArguments {
  const float* gate;
  const float* up;
  float* y;  // may be gate or up
  u64 count;
  u32 activation;
};

/** A block takes 1024 elements. */
KERNEL(gatedActivation, GatedActivationArguments, 256, 1, 0) {
  UNROLL
  for (u32 n = 0; n < 4; n++) {
    const u64 i = (u64)blockIdx.x * 1024 + n * 256 + threadIdx.x;
    if (i < a.count) a.y[i] = activate(a.activation, a.gate[i]).x * a.up[i];
  }
}

struct GatedActivationBackwardArguments {
  const float* gate;
  const float* up;
  const float* dy;
  float* dGate;  // may be gate
  float* dUp;    // may be up
  u64 count;
  u32 activation;
};

KERNEL(gatedActivationBackward, GatedActivationBackwardArguments, 256, 1, 0) {
  UNROLL
  for (u32 n = 0; n < 4; n++) {
    const u64 i = (u64)blockIdx.x * 1024 + n * 256 + threadIdx.x;
    if (i >= a.count) continue;
    const float2 activated = activate(a.activation, a.gate[i]);
    const float up = a.up[i], dy = a.dy[i];
    a.dGate[i] = dy * up * activated.y;
    a.dUp[i] = dy * activated.x;
  }
}
