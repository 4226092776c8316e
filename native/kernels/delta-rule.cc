// The gated delta rule's forward pass: a task is a key head of a sequence, with the value heads that read it, and walks
// over its tokens in chunks; few tokens go one by one, as decoding does. Which of the two depends on the segment alone.
// Not here: a chunk's algebra (delta-chunk.h), the backward pass (delta-rule-backward.cc).
#include "../threads.h"
#include "declarations.h"
#include "delta-chunk.h"
#include "workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** Segments below this many tokens go token by token. */
constexpr int64_t kFewTokens = 8;

struct Scratch {
  Chunk chunk;
  float *out, *scaled;  // [64][valueStride]
  float *key, *query;   // [keyStride]
  float* states;        // of each value head of the group, [keys][valueStride]
  static int64_t size(const HeadSizes& s, int64_t group) {
    return Chunk::size(s) + 2 * kChunk * s.valueStride + 2 * s.keyStride + group * s.stateSize();
  }
  Scratch(float* memory, const HeadSizes& s) : chunk(memory, s) {
    out = memory + Chunk::size(s), scaled = out + kChunk * s.valueStride;
    key = scaled + kChunk * s.valueStride, query = key + s.keyStride, states = query + s.keyStride;
  }
};

/** One token of one value head: S [keys][valueStride] moves on, out [values] is read from it. */
void step(const HeadSizes& s, const float* key, const float* query, const float* v, float decay, float rate, float* state,
          float* out) {
  const int64_t stride = s.valueStride;
  for (int64_t j = 0; j < s.values; j += kLanes) {
    Vec held = {};
    for (int64_t i = 0; i < s.keys; i++) held = multiplyAdd(load(state + i * stride + j), broadcast(key[i]), held);
    const int64_t count = smaller(kLanes, s.values - j);
    const Vec value = count == kLanes ? load(v + j) : loadFirst(v + j, static_cast<int>(count));
    const Vec learnt = (value - held * decay) * rate;
    Vec total = {};
    for (int64_t i = 0; i < s.keys; i++) {
      const Vec next = multiplyAdd(learnt, broadcast(key[i]), load(state + i * stride + j) * decay);
      store(state + i * stride + j, next);
      total = multiplyAdd(next, broadcast(query[i]), total);
    }
    if (count == kLanes) {
      store(out + j, total);
    } else {
      storeFirst(out + j, total, static_cast<int>(count));
    }
  }
}

void runTokens(const DeltaRuleArgs& a, const HeadSizes& s, const Segment& segment, int64_t head, int64_t group,
               const Scratch& scratch, float* out) {
  for (int64_t t = segment.qStart; t < segment.qStart + segment.qLength; t++) {
    const float *k = a.qkv + keyAt(a, t, head), *q = a.qkv + queryAt(a, t, head);
    copyScaled(k, inverseLength(k, s.keys, a.epsilon), s.keys, s.keyStride, scratch.key);
    copyScaled(q, a.scale * inverseLength(q, s.keys, a.epsilon), s.keys, s.keyStride, scratch.query);
    for (int64_t i = 0; i < group; i++) {
      const int64_t vHead = head * group + i, gate = t * a.vHeads + vHead;
      step(s, scratch.key, scratch.query, a.qkv + valueAt(a, t, vHead), std::exp(a.g[gate]), a.beta[gate],
           scratch.states + i * s.stateSize(), out + gate * s.values);
    }
  }
}

void runChunk(const DeltaRuleArgs& a, const HeadSizes& s, int64_t t, int64_t length, int64_t vHead, bool fresh,
              float* state, Scratch& scratch, float* out) {
  Chunk& c = scratch.chunk;
  const int64_t stride = s.valueStride;
  applyDecays(a, t, length, vHead, true, c);
  solveErrors(a, s, t, length, vHead, fresh ? nullptr : state, c);
  if (!fresh) {
    multiply(length, s.values, s.keys, c.q, s.keyStride, state, stride, scratch.out, stride, false);
    for (int64_t i = 0; i < length; i++) scaleRow(scratch.out + i * stride, c.sinceStart[i], stride);
  }
  for (int64_t first = 0; first < length; first += kSolved) {
    const int64_t end = smaller(length, first + kSolved);
    multiply(end - first, s.values, end, c.p + first * kChunk, kChunk, c.u, stride, scratch.out + first * stride, stride,
             !fresh);
  }
  for (int64_t i = 0; i < length; i++) {
    std::memcpy(out + ((t + i) * a.vHeads + vHead) * s.values, scratch.out + i * stride,
                static_cast<size_t>(s.values) * sizeof(float));
  }
  advanceState(s, length, c, scratch.scaled, fresh, state, state);
}

/** Rows of a state as they are kept, [keys][values], to padded ones or back. */
void copyState(const HeadSizes& s, const float* from, int64_t fromStride, float* to, int64_t toStride) {
  for (int64_t i = 0; i < s.keys; i++) {
    std::memcpy(to + i * toStride, from + i * fromStride, static_cast<size_t>(s.values) * sizeof(float));
    for (int64_t j = s.values; j < toStride; j++) to[i * toStride + j] = 0;
  }
}

}  // namespace

void gatedDeltaRule(const DeltaRuleArgs& a, float* state, float* out) {
  if (a.segmentCount == 0) return;
  const HeadSizes s(a);
  const int64_t group = a.vHeads / a.kHeads, each = Scratch::size(s, group);
  Workspace<float> memory(threadCount() * each);
  parallelTasks(a.segmentCount * a.kHeads, [&](int64_t task, int thread) {
    const int64_t head = task % a.kHeads;
    int64_t n = task / a.kHeads;
    // Segments of one sequence follow one another: its first one's task runs them all.
    if (state && n > 0 && a.segments[n].kStart == a.segments[n - 1].kStart) return;
    Scratch scratch(memory.get() + thread * each, s);
    const int64_t row = a.segments[n].kStart;
    do {
      const Segment& segment = a.segments[n];
      bool fresh = !state || segment.kLength == segment.qLength;
      const auto kept = [&](int64_t i) { return state + (row * a.vHeads + head * group + i) * s.keys * s.values; };
      for (int64_t i = 0; i < group; i++) {
        float* own = scratch.states + i * s.stateSize();
        if (!fresh) copyState(s, kept(i), s.values, own, s.valueStride);
      }
      if (segment.qLength < kFewTokens) {
        if (fresh) std::memset(scratch.states, 0, static_cast<size_t>(group * s.stateSize()) * sizeof(float));
        runTokens(a, s, segment, head, group, scratch, out);
      } else {
        for (int64_t first = 0; first < segment.qLength; first += kChunk) {
          const int64_t t = segment.qStart + first, length = smaller(kChunk, segment.qLength - first);
          loadKeys(a, s, t, length, head, true, scratch.chunk);
          for (int64_t i = 0; i < group; i++) {
            runChunk(a, s, t, length, head * group + i, fresh, scratch.states + i * s.stateSize(), scratch, out);
          }
          fresh = false;
        }
      }
      for (int64_t i = 0; state && i < group; i++) {
        copyState(s, scratch.states + i * s.stateSize(), s.valueStride, kept(i), s.values);
      }
      n++;
    } while (state && n < a.segmentCount && a.segments[n].kStart == row);
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
