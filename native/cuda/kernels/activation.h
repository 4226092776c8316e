// Activations with their slopes, for gated-activation.cu and experts.cu. Codes are those of src/backend/cuda/rows.ts.
#pragma once
#include "../device.h"

constexpr u32 kSilu = 0, kGelu = 1, kGeluTanh = 2, kIdentity = 3;  // 4: sigmoid

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
  if (kind == kGeluTanh) {
    const float k = 0.79788456080286536f;
    const float t = tanhf(k * (x + 0.044715f * x * x * x));
    return make_float2(0.5f * x * (1.0f + t),
                       0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * k * (1.0f + 3.0f * 0.044715f * x * x));
  }
  if (kind == kIdentity) return make_float2(x, 1.0f);
  const float s = 1.0f / (1.0f + expf(-x));
  return make_float2(s, s * (1.0f - s));
}
