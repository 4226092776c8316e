// One AdamW update (Loshchilov & Hutter 2019) as torch.optim.AdamW does it: decay first, epsilon outside the root of
// the bias-corrected second moment. Constants are computed in double, elements in f32. Bound by memory.
// Not here: the 8-bit form (src/optim), schedules.
#include <cmath>

#include "../simd.h"
#include "../threads.h"
#include "declarations.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

void adamw(const AdamwArgs& a) {
  const double correction1 = 1 - pow(a.beta1, static_cast<double>(a.step));
  const double correction2 = 1 - pow(a.beta2, static_cast<double>(a.step));
  const float gradScale = a.factor ? *a.factor : 1.0f;
  if (gradScale < 0) return;
  const float keep = static_cast<float>(1 - a.learningRate * a.weightDecay);
  const float beta1 = static_cast<float>(a.beta1), beta2 = static_cast<float>(a.beta2);
  const float rest1 = static_cast<float>(1 - a.beta1), rest2 = static_cast<float>(1 - a.beta2);
  const float rootScale = static_cast<float>(1 / sqrt(correction2));
  const float epsilon = static_cast<float>(a.epsilon);
  const float step = static_cast<float>(-a.learningRate / correction1);
  parallelRange(a.count, 8192, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) {
      const Vec g = memory.load(a.grads + i) * gradScale;
      const Vec m = multiplyAdd(memory.load(a.m + i), broadcast(beta1), g * rest1);
      const Vec v = multiplyAdd(memory.load(a.v + i), broadcast(beta2), g * g * rest2);
      const Vec denominator = multiplyAdd(squareRoot(v), broadcast(rootScale), broadcast(epsilon));
      const Vec p = memory.load(a.params + i) * keep;
      memory.store(a.m + i, m);
      memory.store(a.v + i, v);
      memory.store(a.params + i, multiplyAdd(broadcast(step), m / denominator, p));
    });
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
