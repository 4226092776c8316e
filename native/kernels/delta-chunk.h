// What the gated delta rule's passes share: a chunk of at most 64 tokens of one head, within which the rule is a triangular
// system (Yang et al. 2024). With G the decays' logs summed from the chunk's start, rows K, Q (unit keys and queries),
// V, and the state S at its start:
//   errors E = V - e^G K S - A (beta E), A[t][j] = e^(G[t] - G[j]) K[t].K[j] for j < t, and U = beta E;
//   out = e^G Q S + P U, P[t][j] = e^(G[t] - G[j]) Q[t].K[j] for j <= t;
//   S' = e^G[last] S + K^T (e^(G[last] - G) U).
// Chunks are counted from their segment's start. Rows lie `stride` apart, padded by zeros to whole vectors. Not here: the
// walk over chunks (delta-rule.cc, delta-rule-backward.cc), products on tiles (tile-product.h).
#pragma once
#include <cmath>

#include "../kernels.h"
#include "../simd-math.h"
#include "lanes.h"
#include "tile-product.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kChunk = 64;
/** Rows of a triangular system that are solved at once. */
constexpr int64_t kSolved = 16;

/** Widths of heads, and of rows that are padded to whole vectors. */
struct HeadSizes {
  int64_t keys, values, keyStride, valueStride;
  explicit HeadSizes(const DeltaRuleArgs& a)
      : keys(a.keyWidth), values(a.vDim), keyStride(roundUp(a.keyWidth, kLanes)), valueStride(roundUp(a.vDim, kLanes)) {}
  int64_t stateSize() const { return keys * valueStride; }
};

/** Where the parts of token t (a row of the pass) lie in qkv. */
LOWRANK_INLINE int64_t queryAt(const DeltaRuleArgs& a, int64_t t, int64_t head) {
  return t * a.channels + head * a.keyWidth;
}
LOWRANK_INLINE int64_t keyAt(const DeltaRuleArgs& a, int64_t t, int64_t head) {
  return t * a.channels + (a.kHeads + head) * a.keyWidth;
}
LOWRANK_INLINE int64_t valueAt(const DeltaRuleArgs& a, int64_t t, int64_t vHead) {
  return t * a.channels + 2 * a.kHeads * a.keyWidth + vHead * a.vDim;
}

/** A chunk's rows and products: pointers into one stretch of memory. */
struct Chunk {
  float *k, *q;      // [64][keyStride]
  float* kLanesRows; // [keys][64]: k transposed
  float *kk, *qk;    // [64][64]: K[t].K[j] and Q[t].K[j]
  float *decay;      // [64][64]: e^(G[t] - G[j]) for j <= t, else 0
  float *minusA, *p; // [64][64]; minusA is -A
  float *e, *u;      // [64][valueStride]
  float *sinceStart, *untilEnd;  // [64]: e^G, e^(G[last] - G)
  float whole;       // e^G[last]

  static int64_t size(const HeadSizes& s) {
    return kChunk * (2 * s.keyStride + s.keys + 5 * kChunk + 2 * s.valueStride + 2);
  }
  Chunk(float* memory, const HeadSizes& s) : whole(1) {
    const auto take = [&](int64_t count) {
      float* at = memory;
      memory += count;
      return at;
    };
    k = take(kChunk * s.keyStride), q = take(kChunk * s.keyStride), kLanesRows = take(kChunk * s.keys);
    kk = take(kChunk * kChunk), qk = take(kChunk * kChunk), decay = take(kChunk * kChunk);
    minusA = take(kChunk * kChunk), p = take(kChunk * kChunk);
    e = take(kChunk * s.valueStride), u = take(kChunk * s.valueStride);
    sinceStart = take(kChunk), untilEnd = take(kChunk);
  }
};

/** to [columns][toStride] = from [rows][fromStride] transposed; lanes past `rows` up to whole vectors become 0. */
inline void transposeTile(const float* from, int64_t fromStride, int64_t rows, int64_t columns, float* to,
                          int64_t toStride) {
#if defined(__AVX512F__)
  for (int64_t r = 0; r < rows; r += 16) {
    for (int64_t c = 0; c < columns; c += 16) {
      const int64_t count = smaller(16, columns - c);
      __m512i b[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        b[i] = r + i < rows ? (__m512i)_mm512_maskz_loadu_ps(firstLanes(count), from + (r + i) * fromStride + c)
                            : _mm512_setzero_si512();
      }
      transpose16(b);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        if (i < count) _mm512_storeu_si512(to + (c + i) * toStride + r, b[i]);
      }
    }
  }
#else
  const int64_t wholeColumns = columns / 4 * 4;
  for (int64_t r = 0; r < roundUp(rows, kLanes); r += 4) {
    for (int64_t c = 0; c < wholeColumns; c += 4) {
      Vec4 b[4];
      for (int i = 0; i < 4; i++) b[i] = r + i < rows ? load4(from + (r + i) * fromStride + c) : Vec4{};
      transpose4(b[0], b[1], b[2], b[3]);
      for (int i = 0; i < 4; i++) store4(to + (c + i) * toStride + r, b[i]);
    }
    for (int64_t c = wholeColumns; c < columns; c++) {
      for (int i = 0; i < 4; i++) to[c * toStride + r + i] = r + i < rows ? from[(r + i) * fromStride + c] : 0.0f;
    }
  }
#endif
}

/** c [rows][cStride] = or += (add) a b, a [rows][aStride], b [depth][bStride]; columns are rounded up to whole vectors. */
LOWRANK_INLINE void multiply(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t aStride,
                             const float* b, int64_t bStride, float* c, int64_t cStride, bool add) {
  tileProduct<Order::DepthContiguous>(TileProduct<FloatTerms>{rows, divideUp(columns, kLanes), depth, a, aStride, b, bStride,
                                                              c, cStride, add ? Start::Add : Start::Zero, nullptr});
}

/** The same with a given as [depth][aStride]. */
LOWRANK_INLINE void multiplyTransposed(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t aStride,
                                       const float* b, int64_t bStride, float* c, int64_t cStride, bool add) {
  tileProduct<Order::RowContiguous>(TileProduct<FloatTerms>{rows, divideUp(columns, kLanes), depth, a, aStride, b, bStride,
                                                            c, cStride, add ? Start::Add : Start::Zero, nullptr});
}

LOWRANK_INLINE float dotRows(const float* x, const float* y, int64_t n) {
  Vec total = {};
  eachVector(0, n, [&](int64_t i, const auto& memory) { total = multiplyAdd(memory.load(x + i), memory.load(y + i), total); });
  return sumLanes(total);
}

/** y [stride] = factor x of n, with zeros behind. */
LOWRANK_INLINE void copyScaled(const float* x, float factor, int64_t n, int64_t stride, float* y) {
  eachVector(0, n, [&](int64_t i, const auto& memory) { memory.store(y + i, memory.load(x + i) * factor); });
  for (int64_t i = n; i < stride; i++) y[i] = 0;
}

LOWRANK_INLINE void scaleRow(float* y, float factor, int64_t stride) {
  for (int64_t i = 0; i < stride; i += kLanes) store(y + i, load(y + i) * factor);
}

/** 1 / sqrt(sum x^2 + epsilon). */
LOWRANK_INLINE float inverseLength(const float* x, int64_t n, float epsilon) {
  return 1.0f / std::sqrt(dotRows(x, x, n) + epsilon);
}

/** Unit keys and, with `queries`, scaled unit queries of `length` tokens from row t on, and their products. */
inline void loadKeys(const DeltaRuleArgs& a, const HeadSizes& s, int64_t t, int64_t length, int64_t head, bool queries,
                     const Chunk& c) {
  for (int64_t i = 0; i < length; i++) {
    const float* k = a.qkv + keyAt(a, t + i, head);
    copyScaled(k, inverseLength(k, s.keys, a.epsilon), s.keys, s.keyStride, c.k + i * s.keyStride);
    if (!queries) continue;
    const float* q = a.qkv + queryAt(a, t + i, head);
    copyScaled(q, a.scale * inverseLength(q, s.keys, a.epsilon), s.keys, s.keyStride, c.q + i * s.keyStride);
  }
  transposeTile(c.k, s.keyStride, length, s.keys, c.kLanesRows, kChunk);
  multiply(length, length, s.keys, c.k, s.keyStride, c.kLanesRows, kChunk, c.kk, kChunk, false);
  if (queries) multiply(length, length, s.keys, c.q, s.keyStride, c.kLanesRows, kChunk, c.qk, kChunk, false);
}

/** The decays of a value head, and -A; with `queries`, P. What lies above the diagonal is 0 up to whole vectors. */
inline void applyDecays(const DeltaRuleArgs& a, int64_t t, int64_t length, int64_t vHead, bool queries, Chunk& c) {
  alignas(64) float logs[kChunk];
  alignas(64) int32_t place[kLanes];
  float sum = 0;
  for (int64_t i = 0; i < length; i++) logs[i] = sum += a.g[(t + i) * a.vHeads + vHead];
  for (int64_t i = length; i < kChunk; i++) logs[i] = sum;
  for (int i = 0; i < kLanes; i++) place[i] = i;
  IntVec lane;
  std::memcpy(&lane, place, sizeof lane);
  for (int64_t i = 0; i < kChunk; i += kLanes) {
    store(c.sinceStart + i, exponential(load(logs + i)));
    store(c.untilEnd + i, exponential(sum - load(logs + i)));
  }
  c.whole = c.sinceStart[length - 1];
  for (int64_t i = 0; i < length; i++) {
    for (int64_t j = 0; j < roundUp(length, kLanes); j += kLanes) {
      const int64_t at = i * kChunk + j;
      const IntVec before = lane + static_cast<int32_t>(j - i);  // below 0: an earlier token
      const Vec none = {};
      Vec decay = none;
      if (j <= i) {
        const Vec all = exponential(minimum(broadcast(0.0f), logs[i] - load(logs + j)));
        decay = before <= 0 ? all : none;
      }
      store(c.decay + at, decay);
      store(c.minusA + at, before < 0 ? -decay * load(c.kk + at) : none);
      if (queries) store(c.p + at, before <= 0 ? decay * load(c.qk + at) : none);
    }
  }
}

/** The errors E and U = beta E, from the state at the chunk's start ([keys][valueStride]; null where it is 0). */
inline void solveErrors(const DeltaRuleArgs& a, const HeadSizes& s, int64_t t, int64_t length, int64_t vHead,
                        const float* state, const Chunk& c) {
  const int64_t stride = s.valueStride;
  if (state) multiply(length, s.values, s.keys, c.k, s.keyStride, state, stride, c.e, stride, false);
  for (int64_t i = 0; i < length; i++) {
    const float* v = a.qkv + valueAt(a, t + i, vHead);
    float* e = c.e + i * stride;
    const Vec decay = broadcast(-c.sinceStart[i]);
    eachVector(0, s.values, [&](int64_t j, const auto& memory) {
      const Vec value = memory.load(v + j);
      memory.store(e + j, state ? multiplyAdd(decay, memory.load(e + j), value) : value);
    });
    for (int64_t j = s.values; j < stride; j++) e[j] = 0;
  }
  for (int64_t first = 0; first < length; first += kSolved) {
    const int64_t end = smaller(length, first + kSolved);
    if (first > 0) {
      multiply(end - first, s.values, first, c.minusA + first * kChunk, kChunk, c.u, stride, c.e + first * stride, stride,
               true);
    }
    for (int64_t i = first; i < end; i++) {
      const float rate = a.beta[(t + i) * a.vHeads + vHead];
      const float* row = c.minusA + i * kChunk;
      for (int64_t j = 0; j < stride; j += kLanes) {
        Vec error = load(c.e + i * stride + j);
        for (int64_t m = first; m < i; m++) error = multiplyAdd(broadcast(row[m]), load(c.u + m * stride + j), error);
        store(c.e + i * stride + j, error);
        store(c.u + i * stride + j, error * rate);
      }
    }
  }
}

/** S' of S, both [keys][valueStride]; `fresh`: S is 0 and not read. `scaled` is [64][valueStride] of working memory. */
inline void advanceState(const HeadSizes& s, int64_t length, const Chunk& c, float* scaled, bool fresh,
                         const float* before, float* after) {
  const int64_t stride = s.valueStride;
  for (int64_t i = 0; i < length; i++) {
    for (int64_t j = 0; j < stride; j += kLanes) store(scaled + i * stride + j, load(c.u + i * stride + j) * c.untilEnd[i]);
  }
  if (!fresh) {
    for (int64_t i = 0; i < s.stateSize(); i += kLanes) store(after + i, load(before + i) * c.whole);
  }
  multiplyTransposed(s.keys, s.values, length, c.k, s.keyStride, scaled, stride, after, stride, !fresh);
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
