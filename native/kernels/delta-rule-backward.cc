// The gated delta rule's backward pass: a task is a key head of a segment. For each of its value heads the states and
// errors of all chunks are made again, then chunks go in reverse with dS, the gradient of the state after a chunk. Keys'
// and queries' gradients gather in dqkv as those of unit vectors and are turned into the vectors' own at the end.
// With x = dU before beta, f = beta x = dV, N = decay (dO U^T) and M = -decay (f U^T) below the diagonal:
//   dQ = e^G dO S^T + N K;  dK = read + written, read = M K - e^G f S^T, written = e^(G[last]-G) U dS^T + N^T Q + M^T K;
//   dG = Q.dQ + K.read - K.written, and dG[last] += dS.S'.
// Not here: the forward pass (delta-rule.cc), a chunk's algebra (delta-chunk.h).
#include "../threads.h"
#include "declarations.h"
#include "delta-chunk.h"
#include "workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

struct Scratch {
  Chunk chunk;
  float *dOut, *f;             // [64][valueStride]
  float *uLanes;               // [values][64]: u transposed
  float *n, *m;                // [64][64]
  float *dQuery, *read, *written;  // [64][keyStride]
  float* stateLanes;           // [values][keyStride]: a state transposed
  float* dState;               // [keys][valueStride]
  float* dLog;                 // [64]: dG
  float* states;               // of each chunk, and of the end
  float* errors;               // of each chunk [64][valueStride]

  static int64_t size(const HeadSizes& s, int64_t chunks) {
    return Chunk::size(s) + kChunk * (2 * s.valueStride + s.values + 2 * kChunk + 3 * s.keyStride + 1) +
           s.values * s.keyStride + (chunks + 2) * s.stateSize() + chunks * kChunk * s.valueStride;
  }
  Scratch(float* memory, const HeadSizes& s, int64_t chunks) : chunk(memory, s) {
    memory += Chunk::size(s);
    const auto take = [&](int64_t count) {
      float* at = memory;
      memory += count;
      return at;
    };
    dOut = take(kChunk * s.valueStride), f = take(kChunk * s.valueStride), uLanes = take(kChunk * s.values);
    n = take(kChunk * kChunk), m = take(kChunk * kChunk);
    dQuery = take(kChunk * s.keyStride), read = take(kChunk * s.keyStride), written = take(kChunk * s.keyStride);
    dLog = take(kChunk), stateLanes = take(s.values * s.keyStride);
    dState = take(s.stateSize());
    states = take((chunks + 1) * s.stateSize()), errors = take(chunks * kChunk * s.valueStride);
  }
};

/** A value head's tokens of one chunk, and the pass's gradients. */
struct Place {
  const DeltaRuleArgs& a;
  const HeadSizes& s;
  int64_t head, vHead;
  int64_t t, length;  // first row of the pass, and tokens
  int64_t gate(int64_t i) const { return (t + i) * a.vHeads + vHead; }
};

/** x of every token, last first: dBeta = x.E, f = beta x. */
void solveBackward(const Place& at, bool last, const Scratch& w, float* dBeta) {
  const Chunk& c = w.chunk;
  const int64_t stride = at.s.valueStride, length = at.length;
  if (!last) {
    multiply(length, at.s.values, at.s.keys, c.k, at.s.keyStride, w.dState, stride, w.f, stride, false);
    for (int64_t i = 0; i < length; i++) scaleRow(w.f + i * stride, c.untilEnd[i], stride);
  }
  for (int64_t first = 0; first < length; first += kSolved) {
    const int64_t end = smaller(length, first + kSolved);
    multiplyTransposed(end - first, at.s.values, length - first, c.p + first * kChunk + first, kChunk,
                       w.dOut + first * stride, stride, w.f + first * stride, stride, !last);
  }
  for (int64_t first = (length - 1) / kSolved * kSolved; first >= 0; first -= kSolved) {
    const int64_t end = smaller(length, first + kSolved);
    if (end < length) {
      multiplyTransposed(end - first, at.s.values, length - end, c.minusA + end * kChunk + first, kChunk,
                         w.f + end * stride, stride, w.f + first * stride, stride, true);
    }
    for (int64_t i = end - 1; i >= first; i--) {
      const float rate = at.a.beta[at.gate(i)];
      Vec dot = {};
      for (int64_t j = 0; j < stride; j += kLanes) {
        Vec x = load(w.f + i * stride + j);
        for (int64_t r = i + 1; r < end; r++) {
          x = multiplyAdd(broadcast(c.minusA[r * kChunk + i]), load(w.f + r * stride + j), x);
        }
        dot = multiplyAdd(x, load(c.e + i * stride + j), dot);
        store(w.f + i * stride + j, x * rate);
      }
      dBeta[at.gate(i)] = sumLanes(dot);
    }
  }
}

/** N and M, with zeros above the diagonal up to whole vectors. */
void scoreGradients(const Place& at, const Scratch& w) {
  const Chunk& c = w.chunk;
  const int64_t stride = at.s.valueStride, length = at.length;
  transposeTile(c.u, stride, length, at.s.values, w.uLanes, kChunk);
  for (int64_t first = 0; first < length; first += kSolved) {
    const int64_t end = smaller(length, first + kSolved);
    const auto product = [&](const float* rows, float* to) {
      multiply(end - first, end, at.s.values, rows + first * stride, stride, w.uLanes, kChunk, to + first * kChunk, kChunk,
               false);
    };
    product(w.dOut, w.n);
    product(w.f, w.m);
  }
  for (int64_t i = 0; i < length; i++) {
    for (int64_t j = 0; j < roundUp(length, kLanes); j += kLanes) {
      const int64_t e = i * kChunk + j;
      if (j > i) {
        store(w.n + e, Vec{});
        store(w.m + e, Vec{});
        continue;
      }
      const Vec decay = load(c.decay + e);
      store(w.n + e, decay * load(w.n + e));
      store(w.m + e, -decay * load(w.m + e));
    }
    w.m[i * kChunk + i] = 0;
  }
}

/** Adds to (or begins) the gradients of unit queries and keys in dqkv, and leaves dG in dLog. */
void keyGradients(const Place& at, bool first, bool last, bool begins, const Scratch& w, const float* before,
                  const float* after, float* dqkv) {
  const Chunk& c = w.chunk;
  const HeadSizes& s = at.s;
  const int64_t length = at.length, wide = s.keyStride;
  if (!first) {
    transposeTile(before, s.valueStride, s.keys, s.values, w.stateLanes, wide);
    multiply(length, s.keys, s.values, w.dOut, s.valueStride, w.stateLanes, wide, w.dQuery, wide, false);
    multiply(length, s.keys, s.values, w.f, s.valueStride, w.stateLanes, wide, w.read, wide, false);
    for (int64_t i = 0; i < length; i++) {
      scaleRow(w.dQuery + i * wide, c.sinceStart[i], wide);
      scaleRow(w.read + i * wide, -c.sinceStart[i], wide);
    }
  }
  if (!last) {
    transposeTile(w.dState, s.valueStride, s.keys, s.values, w.stateLanes, wide);
    multiply(length, s.keys, s.values, c.u, s.valueStride, w.stateLanes, wide, w.written, wide, false);
    for (int64_t i = 0; i < length; i++) scaleRow(w.written + i * wide, c.untilEnd[i], wide);
  }
  for (int64_t row = 0; row < length; row += kSolved) {
    const int64_t rows = smaller(length, row + kSolved) - row, rest = length - row;
    multiply(rows, s.keys, row + rows, w.n + row * kChunk, kChunk, c.k, wide, w.dQuery + row * wide, wide, !first);
    multiply(rows, s.keys, row + rows, w.m + row * kChunk, kChunk, c.k, wide, w.read + row * wide, wide, !first);
    const int64_t corner = row * kChunk + row;
    multiplyTransposed(rows, s.keys, rest, w.n + corner, kChunk, c.q + row * wide, wide, w.written + row * wide, wide,
                       !last);
    multiplyTransposed(rows, s.keys, rest, w.m + corner, kChunk, c.k + row * wide, wide, w.written + row * wide, wide,
                       true);
  }
  for (int64_t i = 0; i < length; i++) {
    const float *q = c.q + i * wide, *k = c.k + i * wide;
    const float *dQuery = w.dQuery + i * wide, *read = w.read + i * wide, *written = w.written + i * wide;
    w.dLog[i] = dotRows(q, dQuery, s.keys) + dotRows(k, read, s.keys) - dotRows(k, written, s.keys);
    float *toQuery = dqkv + queryAt(at.a, at.t + i, at.head), *toKey = dqkv + keyAt(at.a, at.t + i, at.head);
    eachVector(0, s.keys, [&](int64_t j, const auto& memory) {
      const Vec key = memory.load(read + j) + memory.load(written + j);
      memory.store(toQuery + j, begins ? memory.load(dQuery + j) : memory.load(toQuery + j) + memory.load(dQuery + j));
      memory.store(toKey + j, begins ? key : memory.load(toKey + j) + key);
    });
  }
  if (!last) w.dLog[length - 1] += dotRows(w.dState, after, s.stateSize());
}

/** dS of the chunk before: e^G[last] dS + Q^T (e^G dO) - K^T (e^G f); dO and f are scaled in their own memory. */
void previousState(const Place& at, bool last, Scratch& w) {
  const Chunk& c = w.chunk;
  const HeadSizes& s = at.s;
  const int64_t stride = s.valueStride;
  for (int64_t i = 0; i < at.length; i++) {
    scaleRow(w.dOut + i * stride, c.sinceStart[i], stride);
    scaleRow(w.f + i * stride, -c.sinceStart[i], stride);
  }
  if (!last) {
    for (int64_t i = 0; i < s.stateSize(); i += kLanes) store(w.dState + i, load(w.dState + i) * c.whole);
  }
  multiplyTransposed(s.keys, s.values, at.length, c.q, s.keyStride, w.dOut, stride, w.dState, stride, !last);
  multiplyTransposed(s.keys, s.values, at.length, c.k, s.keyStride, w.f, stride, w.dState, stride, true);
}

void chunkBackward(const Place& at, bool first, bool last, bool begins, Scratch& w, const float* before,
                   const float* after, const float* dOut, float* dqkv, float* dg, float* dBeta) {
  const HeadSizes& s = at.s;
  for (int64_t i = 0; i < at.length; i++) {
    copyScaled(dOut + at.gate(i) * s.values, 1.0f, s.values, s.valueStride, w.dOut + i * s.valueStride);
  }
  solveBackward(at, last, w, dBeta);
  for (int64_t i = 0; i < at.length; i++) {
    std::memcpy(dqkv + valueAt(at.a, at.t + i, at.vHead), w.f + i * s.valueStride,
                static_cast<size_t>(s.values) * sizeof(float));
  }
  scoreGradients(at, w);
  keyGradients(at, first, last, begins, w, before, after, dqkv);
  if (!first) previousState(at, last, w);
  float sum = 0;
  for (int64_t i = at.length - 1; i >= 0; i--) dg[at.gate(i)] = sum += w.dLog[i];
  // Before a segment's first token there is nothing that could decay.
  if (first) dg[at.gate(0)] = 0;
}

void headBackward(const DeltaRuleArgs& a, const HeadSizes& s, const Segment& segment, int64_t head, int64_t vHead,
                  bool begins, Scratch& w, const float* dOut, float* dqkv, float* dg, float* dBeta) {
  const int64_t chunks = divideUp(segment.qLength, kChunk), errorSize = kChunk * s.valueStride;
  Chunk& c = w.chunk;
  float* own = c.e;
  const auto place = [&](int64_t chunk) {
    const int64_t t = chunk * kChunk;
    return Place{a, s, head, vHead, segment.qStart + t, smaller(kChunk, segment.qLength - t)};
  };
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    const Place at = place(chunk);
    float* before = w.states + chunk * s.stateSize();
    c.e = w.errors + chunk * errorSize;
    loadKeys(a, s, at.t, at.length, head, false, c);
    applyDecays(a, at.t, at.length, vHead, false, c);
    solveErrors(a, s, at.t, at.length, vHead, chunk > 0 ? before : nullptr, c);
    advanceState(s, at.length, c, w.f, chunk == 0, before, before + s.stateSize());
  }
  for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
    const Place at = place(chunk);
    c.e = w.errors + chunk * errorSize;
    loadKeys(a, s, at.t, at.length, head, true, c);
    applyDecays(a, at.t, at.length, vHead, true, c);
    for (int64_t i = 0; i < at.length; i++) {
      copyScaled(c.e + i * s.valueStride, a.beta[at.gate(i)], s.valueStride, s.valueStride, c.u + i * s.valueStride);
    }
    const float* before = w.states + chunk * s.stateSize();
    chunkBackward(at, chunk == 0, chunk == chunks - 1, begins, w, before, before + s.stateSize(), dOut, dqkv, dg, dBeta);
  }
  c.e = own;
}

/** The gradient of x, in place of that of factor x / |x|. */
void throughLength(const float* x, int64_t n, float factor, float epsilon, float* grad) {
  const float inverse = inverseLength(x, n, epsilon);
  const Vec along = broadcast(-dotRows(x, grad, n) * inverse * inverse), scale = broadcast(factor * inverse);
  eachVector(0, n, [&](int64_t i, const auto& memory) {
    memory.store(grad + i, multiplyAdd(along, memory.load(x + i), memory.load(grad + i)) * scale);
  });
}

}  // namespace

void gatedDeltaRuleBackward(const DeltaRuleArgs& a, const float* dOut, float* dqkv, float* dg, float* dBeta) {
  const HeadSizes s(a);
  const int64_t group = a.vHeads / a.kHeads;
  int64_t longest = 0;
  for (int64_t n = 0; n < a.segmentCount; n++) longest = larger(longest, a.segments[n].qLength);
  if (longest == 0) return;
  const int64_t chunks = divideUp(longest, kChunk), each = Scratch::size(s, chunks);
  Workspace<float> memory(threadCount() * each);
  parallelTasks(a.segmentCount * a.kHeads, [&](int64_t task, int thread) {
    const Segment& segment = a.segments[task / a.kHeads];
    const int64_t head = task % a.kHeads;
    Scratch w(memory.get() + thread * each, s, chunks);
    for (int64_t i = 0; i < group; i++) {
      headBackward(a, s, segment, head, head * group + i, i == 0, w, dOut, dqkv, dg, dBeta);
    }
    for (int64_t t = segment.qStart; t < segment.qStart + segment.qLength; t++) {
      for (const int64_t at : {queryAt(a, t, head), keyAt(a, t, head)}) {
        throughLength(a.qkv + at, s.keys, at == queryAt(a, t, head) ? a.scale : 1.0f, a.epsilon, dqkv + at);
      }
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
