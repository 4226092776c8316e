// fill, addInPlace and scaleInPlace. All are bound by memory. Not here: conversions (cast.cc), random fills
// (random.cc), sums (reduce.cc).
#include "../simd.h"
#include "../threads.h"
#include "declarations.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {
constexpr int64_t kGrain = 16384;
}

void fill(float* y, int64_t n, float value) {
  parallelRange(n, kGrain, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) { memory.store(y + i, broadcast(value)); });
  });
}

void addInPlace(const float* x, float* y, int64_t n) {
  parallelRange(n, kGrain, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) {
      memory.store(y + i, memory.load(y + i) + memory.load(x + i));
    });
  });
}

void scaleInPlace(float* y, int64_t n, float factor) {
  parallelRange(n, kGrain, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) { memory.store(y + i, memory.load(y + i) * factor); });
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
