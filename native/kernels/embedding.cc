// Rows by index: the embedding and its gradient, gatherRows and scatterRows. Indices are in range (the caller
// checks token ids). Not here: the head's matrix product (gemm/).
#include "../threads.h"
#include "declarations.h"
#include "half.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** Rows a thread takes at least, so that waking it pays. */
int64_t rowGrain(int64_t c) { return larger(1, 8192 / larger(1, c)); }

void copyRow(const float* from, float* to, int64_t c) {
  std::memmove(to, from, static_cast<size_t>(c) * sizeof(float));
}

}  // namespace

void gatherRows(const float* x, const int32_t* index, float* y, int64_t m, int64_t c) {
  parallelRange(m, rowGrain(c), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) copyRow(x + index[i] * c, y + i * c, c);
  });
}

void scatterRows(const float* x, const int32_t* index, float* y, int64_t m, int64_t c) {
  parallelRange(m, rowGrain(c), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) copyRow(x + i * c, y + index[i] * c, c);
  });
}

void embedding(const int32_t* ids, const void* table, DType type, float* y, int64_t t, int64_t c) {
  if (type == DType::F32) return gatherRows(static_cast<const float*>(table), ids, y, t, c);
  parallelRange(t, rowGrain(c), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const uint16_t* from = static_cast<const uint16_t*>(table) + ids[i] * c;
      float* to = y + i * c;
      if (type == DType::BF16) {
        for (int64_t j = 0; j < c; j++) to[j] = fromBf16(from[j]);
      } else {
        for (int64_t j = 0; j < c; j++) to[j] = fromF16(from[j]);
      }
    }
  });
}

void embeddingBackward(const int32_t* ids, const float* dy, float* dTable, int64_t t, int64_t c, int64_t) {
  // Threads share out columns, not tokens: an id may repeat, and its gradients are added in token order.
  parallelRange(c, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = 0; i < t; i++) {
      const float* from = dy + i * c;
      float* to = dTable + ids[i] * c;
      eachVector(begin, end, [&](int64_t j, const auto& memory) {
        memory.store(to + j, memory.load(to + j) + memory.load(from + j));
      });
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
