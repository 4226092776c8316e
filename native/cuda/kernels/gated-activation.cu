// y = activation(gate) * up, and a soft cap of any numbers, with their backward passes.
#include "activation.h"

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

struct SoftCapArguments {
  const float* x;   // forward what is capped, backward the result
  const float* dy;  // absent: forward
  float* y;         // cap tanh(x / cap), or backward dy (1 - (x / cap)^2); may be x, or backward dy
  u64 count;
  float cap;
};

KERNEL(softCap, SoftCapArguments, 256, 1, 0) {
  UNROLL
  for (u32 n = 0; n < 4; n++) {
    const u64 i = (u64)blockIdx.x * 1024 + n * 256 + threadIdx.x;
    if (i >= a.count) continue;
    const float share = a.x[i] / a.cap;
    a.y[i] = a.dy ? a.dy[i] * (1.0f - share * share) : a.cap * tanhf(share);
  }
}
