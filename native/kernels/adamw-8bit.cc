// One AdamW update on moments of 8 bits: each block of 256 is decoded, updated in f32, used, and rounded to the nearest
// codes of its maps again. The definition is src/optim/adamw-8bit-reference.ts; it differs by f32 rounding alone.
// Not here: moments in f32 (adamw.cc), the maps (src/quant/dynamic-map.ts).
#include <cmath>

#include "../simd.h"
#include "../threads.h"
#include "declarations.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kBlock = 256;
constexpr float kSmallestScale = 1e-38f;

/** The 255 midpoints of a map, and an infinity. */
struct Thresholds {
  alignas(64) float between[kBlock];
  explicit Thresholds(const float* map) {
    for (int i = 0; i < 255; i++) between[i] = (map[i] + map[i + 1]) / 2;
    between[255] = __builtin_inff();
  }
};

void decode(const uint8_t* codes, float absmax, const float* map, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i++) to[i] = map[codes[i]] * absmax;
}

/** Nearest codes by halving, all elements in step so that the loop over them becomes vector code. Returns the scale. */
float encode(const float* from, const Thresholds& thresholds, int64_t n, uint8_t* codes) {
  Vec best = {};
  eachVector(0, n, [&](int64_t i, const auto& memory) {
    const Vec v = memory.load(from + i);
    best = maximum(best, v < 0.0f ? -v : v);
  });
  const float absmax = largestLane(best);
  const float inverse = 1.0f / (absmax > kSmallestScale ? absmax : kSmallestScale);
  alignas(64) float scaled[kBlock];
  alignas(64) int32_t rank[kBlock];
  for (int64_t i = 0; i < n; i++) {
    scaled[i] = from[i] * inverse;
    rank[i] = 0;
  }
  for (int32_t half = 128; half > 0; half >>= 1) {
    for (int64_t i = 0; i < n; i++) rank[i] += scaled[i] > thresholds.between[rank[i] + half - 1] ? half : 0;
  }
  for (int64_t i = 0; i < n; i++) codes[i] = static_cast<uint8_t>(rank[i]);
  return absmax;
}

}  // namespace

void adamw8bit(const Adamw8bitArgs& a) {
  const double rootCorrection2 = sqrt(1 - pow(a.beta2, static_cast<double>(a.step)));
  double clip = 1;
  if (a.clipSumSquares) {
    clip = a.maxNorm / (sqrt(static_cast<double>(*a.clipSumSquares)) + 1e-6);
    if (clip > 1) clip = 1;
  }
  const float keep = static_cast<float>(1 - a.learningRate * a.weightDecay);
  const float beta1 = static_cast<float>(a.beta1), beta2 = static_cast<float>(a.beta2);
  const float rest1 = static_cast<float>(1 - a.beta1), rest2 = static_cast<float>(1 - a.beta2);
  const float step =
      static_cast<float>(-a.learningRate * rootCorrection2 / (1 - pow(a.beta1, static_cast<double>(a.step))));
  const float epsilon = static_cast<float>(a.epsilon * rootCorrection2);
  const float gradScale = static_cast<float>(clip);
  const Thresholds mThresholds(a.mMap), vThresholds(a.vMap);
  parallelRange(divideUp(a.count, kBlock), 16, [&](int64_t first, int64_t last, int) {
    alignas(64) float m[kBlock], v[kBlock];
    for (int64_t block = first; block < last; block++) {
      const int64_t begin = block * kBlock, n = smaller(kBlock, a.count - begin);
      decode(a.mCodes + begin, a.mAbsmax[block], a.mMap, n, m);
      decode(a.vCodes + begin, a.vAbsmax[block], a.vMap, n, v);
      float* params = a.params + begin;
      const float* grads = a.grads + begin;
      eachVector(0, n, [&](int64_t i, const auto& memory) {
        const Vec g = memory.load(grads + i) * gradScale;
        const IntVec finite = g - g == Vec{};  // false for NaN and infinity
        const Vec newM = multiplyAdd(memory.load(m + i), broadcast(beta1), g * rest1);
        const Vec newV = multiplyAdd(memory.load(v + i), broadcast(beta2), g * g * rest2);
        const Vec p = memory.load(params + i);
        const Vec changed = multiplyAdd(broadcast(step), newM / (squareRoot(newV) + epsilon), p * keep);
        memory.store(m + i, finite ? newM : Vec{});
        memory.store(v + i, finite ? newV : Vec{});
        memory.store(params + i, finite ? changed : p);
      });
      a.mAbsmax[block] = encode(m, mThresholds, n, a.mCodes + begin);
      a.vAbsmax[block] = encode(v, vThresholds, n, a.vCodes + begin);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
