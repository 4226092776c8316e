// Kernels by column, for adapters that scale a layer's outputs, and dropout by itself: scaleColumns, addColumnDots,
// magnitudeFactors, dropout; and copyColumns. Sums over rows are made per chunk of rows, then over chunks in order: the same on any number
// of threads. Not here: the products between them (gemm/).
#include <cmath>

#include "../gemm/philox.h"
#include "../simd.h"
#include "../threads.h"
#include "declarations.h"
#include "workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** sums[i] += x * y over one row; y may be null. */
LOWRANK_INLINE void addRow(const float* x, const float* y, float* sums, int64_t o) {
  eachVector(0, o, [&](int64_t i, const auto& memory) {
    const Vec value = memory.load(x + i);
    memory.store(sums + i, y ? multiplyAdd(value, memory.load(y + i), memory.load(sums + i))
                             : value + memory.load(sums + i));
  });
}

}  // namespace

void dropout(const float* x, double p, uint64_t seed, uint32_t stream, float* y, int64_t n) {
  const Dropout mask{static_cast<uint32_t>(std::floor(p * 4294967296.0)), static_cast<float>(1.0 / (1.0 - p)), seed,
                     stream};
  parallelRange(n, 4096, [&](int64_t begin, int64_t end, int) {
    applyDropout<false>(x + begin, begin, end - begin, mask, y + begin);
  });
}

void scaleColumns(const float* x, const float* factors, const float* bias, const float* residual, float* y, int64_t t,
                  int64_t o) {
  parallelRange(t, larger(1, 16384 / larger(1, o)), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t at = row * o;
      eachVector(0, o, [&](int64_t i, const auto& memory) {
        Vec value = memory.load(x + at + i);
        if (factors) value = value * memory.load(factors + i);
        if (bias) value = value + memory.load(bias + i);
        if (residual) value = value + memory.load(residual + at + i);
        memory.store(y + at + i, value);
      });
    }
  });
}

void copyColumns(const float* x, int64_t from, float* y, int64_t to, int64_t count, int64_t t, int64_t n, int64_t m) {
  parallelRange(t, larger(1, 16384 / larger(1, count)), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      std::memcpy(y + row * m + to, x + row * n + from, static_cast<size_t>(count) * sizeof(float));
    }
  });
}

void addColumnDots(const float* x, const float* y, const float* divisor, float* out, int64_t t, int64_t o) {
  if (t == 0 || o == 0) return;
  // At most 64 chunks of at least 32 rows.
  const int64_t chunkRows = larger(32, divideUp(t, 64));
  const int64_t chunks = divideUp(t, chunkRows);
  const int64_t width = roundUp(o, 16);
  Workspace<float> partial(chunks * width);
  parallelTasks(chunks, [&](int64_t chunk, int) {
    float* sums = partial.get() + chunk * width;
    std::memset(sums, 0, static_cast<size_t>(o) * sizeof(float));
    for (int64_t row = chunk * chunkRows; row < smaller(t, (chunk + 1) * chunkRows); row++) {
      addRow(x + row * o, y ? y + row * o : nullptr, sums, o);
    }
  });
  parallelRange(o, 1024, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) {
      Vec total = memory.load(partial.get() + i);
      for (int64_t chunk = 1; chunk < chunks; chunk++) total += memory.load(partial.get() + chunk * width + i);
      if (divisor) total = total / memory.load(divisor + i);
      memory.store(out + i, memory.load(out + i) + total);
    });
  });
}

void magnitudeFactors(const float* magnitude, const float* squares, const float* b, const float* bGram, const float* wa,
                      float scale, float* factors, float* norms, int64_t o, int64_t r) {
  parallelRange(o, larger(16, 16384 / larger(1, r)), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      double sum = squares[i];
      for (int64_t k = 0; k < r; k++) {
        const double slope = 2.0 * scale * wa[k * o + i] + static_cast<double>(scale) * scale * bGram[i * r + k];
        sum += slope * b[i * r + k];
      }
      norms[i] = sum > 0.0 ? static_cast<float>(std::sqrt(sum)) : 1.0f;
      factors[i] = sum > 0.0 ? static_cast<float>(magnitude[i] / std::sqrt(sum)) : 0.0f;
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
