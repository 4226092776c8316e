// Conversion between f32, f64, bf16 and f16. Between two types other than f32 the value passes through f32, as it
// does in src/tensor/dtype.ts. Not here: quantised weights (src/quant, gemm/).
#include "../threads.h"
#include "declarations.h"
#include "half.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kGrain = 16384;
constexpr int64_t kBlock = 1024;

/** Elements [begin, begin + n) of x as f32; n <= kBlock. */
void loadAsF32(const void* x, DType type, int64_t begin, int64_t n, float* out) {
  if (type == DType::F64) {
    const double* from = static_cast<const double*>(x) + begin;
    for (int64_t i = 0; i < n; i++) out[i] = static_cast<float>(from[i]);
  } else if (type == DType::BF16) {
    const uint16_t* from = static_cast<const uint16_t*>(x) + begin;
    for (int64_t i = 0; i < n; i++) out[i] = fromBf16(from[i]);
  } else if (type == DType::F16) {
    const uint16_t* from = static_cast<const uint16_t*>(x) + begin;
    for (int64_t i = 0; i < n; i++) out[i] = fromF16(from[i]);
  } else {
    std::memcpy(out, static_cast<const float*>(x) + begin, static_cast<size_t>(n) * sizeof(float));
  }
}

void storeFromF32(const float* x, int64_t n, void* y, DType type, int64_t begin) {
  if (type == DType::F64) {
    double* to = static_cast<double*>(y) + begin;
    for (int64_t i = 0; i < n; i++) to[i] = x[i];
  } else if (type == DType::BF16) {
    uint16_t* to = static_cast<uint16_t*>(y) + begin;
    for (int64_t i = 0; i < n; i++) to[i] = toBf16(x[i]);
  } else if (type == DType::F16) {
    uint16_t* to = static_cast<uint16_t*>(y) + begin;
    for (int64_t i = 0; i < n; i++) to[i] = toF16(x[i]);
  } else {
    std::memcpy(static_cast<float*>(y) + begin, x, static_cast<size_t>(n) * sizeof(float));
  }
}

int64_t sizeOf(DType type) { return type == DType::F64 ? 8 : type == DType::F32 ? 4 : 2; }

}  // namespace

void cast(const void* x, DType from, void* y, DType to, int64_t n) {
  parallelRange(n, kGrain, [&](int64_t begin, int64_t end, int) {
    if (from == to) {
      const int64_t size = sizeOf(from);
      std::memmove(static_cast<char*>(y) + begin * size, static_cast<const char*>(x) + begin * size,
                   static_cast<size_t>((end - begin) * size));
      return;
    }
    float block[kBlock];
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t count = smaller(kBlock, end - i);
      const float* values = block;
      if (from == DType::F32) {
        values = static_cast<const float*>(x) + i;
      } else {
        loadAsF32(x, from, i, count, to == DType::F32 ? static_cast<float*>(y) + i : block);
      }
      if (to != DType::F32) storeFromF32(values, count, y, to, i);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
