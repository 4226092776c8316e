// Depthwise causal convolution within segments, forward and backward. Tasks are blocks of channels that walk over all
// segments, so that sums over tokens have one order. Not here: what a layer makes of it (src/models/).
#include "../simd-math.h"
#include "../threads.h"
#include "declarations.h"
#include "workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kChannels = 256;  // of a task

/** w [c][taps] as [taps][c], so that a vector is of neighboring channels. */
void weightsByTap(const float* w, int64_t c, int64_t taps, float* byTap) {
  parallelRange(c, 1024, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = 0; i < taps; i++) {
      for (int64_t j = begin; j < end; j++) byTap[i * c + j] = w[j * taps + i];
    }
  });
}

/** bias + the sum over taps of one token's channels: rows[i] is the input of tap i, null before a segment's start. */
template <class Memory>
LOWRANK_INLINE Vec convolve(const float* const* rows, const float* byTap, const float* bias, int64_t c, int64_t taps,
                            int64_t j, const Memory& memory) {
  Vec sum = bias ? memory.load(bias + j) : Vec{};
  for (int64_t i = 0; i < taps; i++) {
    if (rows[i]) sum = multiplyAdd(memory.load(rows[i] + j), memory.load(byTap + i * c + j), sum);
  }
  return sum;
}

/** The inputs of token t of a segment, taps of them; earlier ones than the segment's own are in `state` [taps][c]. */
LOWRANK_INLINE void inputRows(const float* x, const Segment& s, const float* state, int64_t t, int64_t c, int64_t taps,
                              const float** rows) {
  for (int64_t i = 0; i < taps; i++) {
    const int64_t at = t - taps + 1 + i;
    if (at >= 0) {
      rows[i] = x + (s.qStart + at) * c;
    } else {
      rows[i] = state ? state + (taps + at) * c : nullptr;
    }
  }
}

/** Channels [begin, end) of the last `taps` inputs after the segment; rows that move come from above or from x. */
void keepInputs(const float* x, const Segment& s, bool continues, float* state, int64_t c, int64_t taps, int64_t begin,
                int64_t end) {
  const size_t bytes = static_cast<size_t>(end - begin) * sizeof(float);
  for (int64_t i = 0; i < taps; i++) {
    const int64_t at = s.qLength - taps + i;
    float* to = state + i * c + begin;
    if (at >= 0) {
      std::memcpy(to, x + (s.qStart + at) * c + begin, bytes);
    } else if (continues) {
      std::memcpy(to, state + (taps + at) * c + begin, bytes);
    } else {
      std::memset(to, 0, bytes);
    }
  }
}

}  // namespace

void causalConv1d(const CausalConvArgs& a, float* state, float* y) {
  const int64_t c = a.c, taps = a.taps, blocks = divideUp(c, kChannels);
  Workspace<float> byTap(larger(1, c * taps));
  Workspace<const float*> rowsOf(larger(1, blocks * taps));
  weightsByTap(a.w, c, taps, byTap.get());
  parallelTasks(blocks, [&](int64_t block, int) {
    const int64_t begin = block * kChannels, end = smaller(c, begin + kChannels);
    const float** rows = rowsOf.get() + block * taps;
    for (int64_t n = 0; n < a.segmentCount; n++) {
      const Segment& s = a.segments[n];
      const bool continues = s.kLength > s.qLength;
      float* own = state ? state + s.kStart * taps * c : nullptr;
      for (int64_t t = 0; t < s.qLength; t++) {
        inputRows(a.x, s, continues ? own : nullptr, t, c, taps, rows);
        float* to = y + (s.qStart + t) * c;
        eachVector(begin, end, [&](int64_t j, const auto& memory) {
          const Vec sum = convolve(rows, byTap.get(), a.bias, c, taps, j, memory);
          memory.store(to + j, a.silu ? sum * logistic(sum).value : sum);
        });
      }
      if (own) keepInputs(a.x, s, continues, own, c, taps, begin, end);
    }
  });
}

void causalConv1dBackward(const CausalConvArgs& a, const float* dy, float* dx, float* dw, float* dBias) {
  const int64_t c = a.c, taps = a.taps, blocks = divideUp(c, kChannels);
  Workspace<float> byTap(larger(1, c * taps));
  Workspace<const float*> rowsOf(larger(1, blocks * taps));
  // Of the last `taps` tokens the gradients before the activation, a ring; and the sums of dw and dBias.
  Workspace<float> rings(larger(1, blocks * taps * kChannels));
  Workspace<float> sums(larger(1, blocks * (taps + 1) * kChannels));
  weightsByTap(a.w, c, taps, byTap.get());
  const bool trains = dw || dBias;
  parallelTasks(blocks, [&](int64_t block, int) {
    const int64_t begin = block * kChannels, end = smaller(c, begin + kChannels);
    const float** rows = rowsOf.get() + block * taps;
    float* ring = rings.get() + block * taps * kChannels;
    float* sum = sums.get() + block * (taps + 1) * kChannels;
    std::memset(sum, 0, static_cast<size_t>((taps + 1) * kChannels) * sizeof(float));
    for (int64_t n = 0; n < a.segmentCount; n++) {
      const Segment& s = a.segments[n];
      for (int64_t t = s.qLength - 1; t >= 0; t--) {
        inputRows(a.x, s, nullptr, t, c, taps, rows);
        float* d = ring + t % taps * kChannels - begin;
        const float* from = dy + (s.qStart + t) * c;
        eachVector(begin, end, [&](int64_t j, const auto& memory) {
          Vec grad = memory.load(from + j);
          if (a.silu) {
            const Vec before = convolve(rows, byTap.get(), a.bias, c, taps, j, memory);
            const Logistic l = logistic(before);
            grad = grad * l.value * multiplyAdd(before, l.rest, broadcast(1.0f));
          }
          memory.store(d + j, grad);
          if (trains) {
            for (int64_t i = 0; i < taps; i++) {
              float* to = sum + i * kChannels - begin + j;
              if (rows[i]) memory.store(to, multiplyAdd(grad, memory.load(rows[i] + j), memory.load(to)));
            }
            float* to = sum + taps * kChannels - begin + j;
            memory.store(to, grad + memory.load(to));
          }
          if (!dx) return;
          // Token t is tap i of the token taps - 1 - i behind it.
          Vec total = {};
          for (int64_t i = larger(0, t + taps - s.qLength); i < taps; i++) {
            const float* later = ring + (t + taps - 1 - i) % taps * kChannels - begin;
            total = multiplyAdd(memory.load(later + j), memory.load(byTap.get() + i * c + j), total);
          }
          memory.store(dx + (s.qStart + t) * c + j, total);
        });
      }
    }
    for (int64_t j = begin; j < end; j++) {
      for (int64_t i = 0; dw && i < taps; i++) dw[j * taps + i] += sum[i * kChannels + j - begin];
      if (dBias) dBias[j] += sum[taps * kChannels + j - begin];
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
