// One update of Lion (Chen et al. 2023): a step of the learning rate along the sign of a mix of moment and gradient. Constants
// are computed in double, elements in f32. Bound by memory. Not here: AdamW (adamw.cc), schedules.
#include <cmath>

#include "../simd.h"
#include "../threads.h"
#include "declarations.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

void lion(float* params, const float* grads, float* m, int64_t count, double learningRate, double beta1, double beta2,
          double weightDecay, const float* factor) {
  const float gradScale = factor ? *factor : 1.0f;
  if (gradScale < 0) return;
  const float keep = static_cast<float>(1 - learningRate * weightDecay);
  const float mix1 = static_cast<float>(beta1), mix2 = static_cast<float>(beta2);
  const float rest1 = static_cast<float>(1 - beta1), rest2 = static_cast<float>(1 - beta2);
  const float step = static_cast<float>(learningRate);
  const Vec zero = broadcast(0.0f);
  const IntVec one = (IntVec)broadcast(1.0f);
  parallelRange(count, 8192, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) {
      const Vec g = memory.load(grads + i) * gradScale;
      const Vec held = memory.load(m + i);
      const Vec mixed = multiplyAdd(held, broadcast(mix1), g * rest1);
      const Vec p = memory.load(params + i) * keep;
      const Vec sign = (Vec)(one & (IntVec)(mixed > zero)) - (Vec)(one & (IntVec)(mixed < zero));
      memory.store(params + i, multiplyAdd(sign, broadcast(-step), p));
      memory.store(m + i, multiplyAdd(held, broadcast(mix2), g * rest2));
    });
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
