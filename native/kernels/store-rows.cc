// Rows into a cache of keys and values, in the type that it stores: storeRows. Not here: how they are read
// (key-source.h).
#include <cmath>

#include "../threads.h"
#include "declarations.h"
#include "half.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** As ggml's quantize_row_q8_0_ref; the row's scales lie behind its codes. */
void storeQ8(const float* from, int64_t c, char* to) {
  for (int64_t first = 0; first < c; first += 32) {
    float most = 0;
    for (int i = 0; i < 32; i++) most = std::fmax(most, std::fabs(from[first + i]));
    const float scale = most / 127, inverse = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < 32; i++) to[first + i] = static_cast<char>(static_cast<int8_t>(roundf(from[first + i] * inverse)));
    const uint16_t half = toF16(scale);
    std::memcpy(to + c + first / 16, &half, sizeof half);
  }
}

}  // namespace

void storeRows(const float* x, const int32_t* index, void* y, DType type, int64_t m, int64_t c, int64_t width) {
  const int64_t size = type == DType::F32 ? 4 : type == DType::U8 ? 1 : 2;
  parallelRange(m, larger(1, 8192 / larger(1, c)), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const float* from = x + i * c;
      char* to = static_cast<char*>(y) + index[i] * width * size;
      auto* halves = reinterpret_cast<uint16_t*>(to);
      if (type == DType::F32) std::memcpy(to, from, static_cast<size_t>(c) * sizeof(float));
      else if (type == DType::U8) storeQ8(from, c, to);
      else if (type == DType::BF16)
        for (int64_t j = 0; j < c; j++) halves[j] = toBf16(from[j]);
      else
        for (int64_t j = 0; j < c; j++) halves[j] = toF16(from[j]);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
