// One AdamW update on moments of 8 bits: each block of 256 is decoded, updated in f32, used, and rounded to the nearest
// codes of its maps again. The definition is src/optim/adamw-8bit-reference.ts; it differs by f32 rounding alone.
// Not here: moments in f32 (adamw.cc), the maps (src/quant/dynamic-map.ts).
#include <cmath>

#include "../simd.h"
#include "../threads.h"
#include "declarations.h"
#include "half.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kBlock = 256;
constexpr float kSmallestScale = 1e-38f;

/**
 * Finds the nearest entry of a map. The upper 16 bits of a number (sign, exponent, 7 bits of fraction) say how many
 * midpoints lie below all numbers that begin so; at most one more lies among them, and one comparison settles it.
 */
class NearestEntry {
 public:
  /** Made again only for another map; one that is denser than 7 bits of fraction is searched by halving. */
  void prepare(const float* map) {
    if (ready_ && std::memcmp(map, map_, sizeof map_) == 0) return;
    std::memcpy(map_, map, sizeof map_);
    for (int i = 0; i < 255; i++) midpoints_[i] = (map[i] + map[i + 1]) / 2;
    midpoints_[255] = __builtin_inff();
    direct_ = true;
    for (uint32_t top = 0; top < 65536; top++) {
      const uint32_t towardsZero = top << 16, awayFromZero = towardsZero | 0xffff;
      const bool negative = top >> 15;
      if ((top & 0x7fff) >= 0x7f80) {
        below_[top] = negative ? 0 : 255;
        continue;
      }
      below_[top] = static_cast<uint8_t>(halve(fromBits(negative ? awayFromZero : towardsZero)));
      direct_ &= halve(fromBits(negative ? towardsZero : awayFromZero)) <= below_[top] + 1;
    }
    ready_ = true;
  }

  /** codes[i] = the entry nearest to from[i] * factor; a midpoint goes to the lower one. */
  void encode(const float* from, float factor, int64_t n, uint8_t* codes) const {
    if (!direct_) {
      for (int64_t i = 0; i < n; i++) codes[i] = static_cast<uint8_t>(halve(from[i] * factor));
      return;
    }
    for (int64_t i = 0; i < n; i++) {
      const float x = from[i] * factor;
      const uint8_t below = below_[bitsOf(x) >> 16];
      codes[i] = static_cast<uint8_t>(below + (x > midpoints_[below]));
    }
  }

 private:
  int halve(float x) const {
    int rank = 0;
    for (int half = 128; half > 0; half >>= 1) rank += x > midpoints_[rank + half - 1] ? half : 0;
    return rank;
  }

  bool ready_ = false, direct_ = false;
  float map_[256];
  float midpoints_[256];
  uint8_t below_[65536];
};

void decode(const uint8_t* codes, float absmax, const float* map, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i++) to[i] = map[codes[i]] * absmax;
}

/** Returns the block's scale. */
float encode(const float* from, const NearestEntry& nearest, int64_t n, uint8_t* codes) {
  Vec best = {};
  eachVector(0, n, [&](int64_t i, const auto& memory) {
    const Vec v = memory.load(from + i);
    best = maximum(best, v < 0.0f ? -v : v);
  });
  const float absmax = largestLane(best);
  nearest.encode(from, 1.0f / (absmax > kSmallestScale ? absmax : kSmallestScale), n, codes);
  return absmax;
}

}  // namespace

void adamw8bit(const Adamw8bitArgs& a) {
  const double rootCorrection2 = sqrt(1 - pow(a.beta2, static_cast<double>(a.step)));
  const float gradScale = a.factor ? *a.factor : 1.0f;
  if (gradScale < 0) return;
  const float keep = static_cast<float>(1 - a.learningRate * a.weightDecay);
  const float beta1 = static_cast<float>(a.beta1), beta2 = static_cast<float>(a.beta2);
  const float rest1 = static_cast<float>(1 - a.beta1), rest2 = static_cast<float>(1 - a.beta2);
  const float step =
      static_cast<float>(-a.learningRate * rootCorrection2 / (1 - pow(a.beta1, static_cast<double>(a.step))));
  const float epsilon = static_cast<float>(a.epsilon * rootCorrection2);
  static thread_local NearestEntry nearestM, nearestV;
  nearestM.prepare(a.mMap);
  nearestV.prepare(a.vMap);
  // Pool threads have copies of their own of what is thread_local: they are given this thread's.
  const NearestEntry &mNearest = nearestM, &vNearest = nearestV;
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
      a.mAbsmax[block] = encode(m, mNearest, n, a.mCodes + begin);
      a.vAbsmax[block] = encode(v, vNearest, n, a.vCodes + begin);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
