// quantize4bit: weights to 4-bit codes and block scales, bit for bit as src/quant/codebook.ts. The code of a value is
// a count of thresholds below it, so there is no branch and no table that depends on the weights.
// Not here: reading the codes back (gemm/rows.h), the scales' own quantisation (src/quant/double-quant.ts).
#include "../simd.h"
#include "../threads.h"
#include "declarations.h"
#include "half.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kLargestBlock = 4096;
constexpr int64_t kWorthAThread = 16384;
constexpr float kSmallestScale = 1e-38f;

/** Elements [begin, begin + n) of x as f32: in place, or converted into `buffer`. */
LOWRANK_INLINE const float* asF32(const Quantize4bitArgs& a, int64_t begin, int64_t n, float* buffer) {
  if (a.xType == DType::F32) return static_cast<const float*>(a.x) + begin;
  const uint16_t* from = static_cast<const uint16_t*>(a.x) + begin;
  if (a.xType == DType::BF16) {
    for (int64_t i = 0; i < n; i++) buffer[i] = fromBf16(from[i]);
  } else {
    for (int64_t i = 0; i < n; i++) buffer[i] = fromF16(from[i]);
  }
  return buffer;
}

LOWRANK_INLINE float largestMagnitude(const float* x, int64_t n) {
  Vec best = {};
  eachVector(0, n, [&](int64_t i, const auto& memory) {
    const Vec v = memory.load(x + i);
    best = maximum(best, v < 0.0f ? -v : v);
  });
  return largestLane(best);
}

/** ranks[i] = number of thresholds below x[i] * factor (or x[i] / factor). */
template <bool divides>
LOWRANK_INLINE void rank(const float* x, int64_t n, float factor, const float* thresholds, int32_t* ranks) {
  eachVector(0, n, [&](int64_t i, const auto& memory) {
    const Vec v = divides ? memory.load(x + i) / factor : memory.load(x + i) * factor;
    IntVec below = {};
    for (int k = 0; k < 15; k++) below -= v > broadcast(thresholds[k]);
    std::memcpy(ranks + i, &below, sizeof below);  // `ranks` has room for whole vectors
  });
}

/** Codes of n pairs to n bytes, the first of a pair in the high nibble. */
LOWRANK_INLINE void packPairs(const int32_t* codes, int64_t n, uint8_t* to) {
  for (int64_t i = 0; i < n; i++) {
    uint64_t pair;
    std::memcpy(&pair, codes + 2 * i, sizeof pair);  // little-endian: the first is the low half
    to[i] = static_cast<uint8_t>(pair << 4 | pair >> 32);
  }
}

}  // namespace

void quantize4bit(const Quantize4bitArgs& a) {
  const int64_t blocks = divideUp(a.count, a.blockSize);
  bool inOrder = true;  // codes that ascend with their values need no translation
  for (int i = 0; i < 16; i++) inOrder &= a.codeByRank[i] == i;
  int32_t zeroRank = 0;
  for (const float threshold : a.thresholds) zeroRank += 0.0f > threshold;
  parallelRange(blocks, larger(1, kWorthAThread / a.blockSize), [&](int64_t first, int64_t last, int) {
    alignas(64) float buffer[kLargestBlock];
    alignas(64) int32_t ranks[kLargestBlock + kLanes];
    for (int64_t block = first; block < last; block++) {
      const int64_t begin = block * a.blockSize, n = smaller(a.blockSize, a.count - begin);
      const float* x = asF32(a, begin, n, buffer);
      const float largest = largestMagnitude(x, n);
      const float scale = largest > kSmallestScale ? largest : kSmallestScale;
      if (n == a.blockSize) {
        a.absmax[block] = largest;
        rank<false>(x, n, 1.0f / scale, a.thresholds.data(), ranks);
      } else {
        a.absmax[block] = scale;
        rank<true>(x, n, scale, a.thresholds.data(), ranks);
        if (n % 2) ranks[n] = zeroRank;  // the padding nibble encodes zero
      }
      const int64_t padded = n + n % 2;
      if (!inOrder) {
        for (int64_t i = 0; i < padded; i++) ranks[i] = a.codeByRank[ranks[i]];
      }
      packPairs(ranks, padded / 2, a.codes + begin / 2);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
