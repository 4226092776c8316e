// The gated delta rule along its sequences, for delta-rule.cu: a matrix S [KD, VD] a head, whose lines stay in registers
// while the tokens pass. A block of 128 has 32 lines (columns, or rows) of one head, each dealt out to 4 lanes of a warp,
// OWN elements a lane; tokens come through shared memory a few at a time. blockIdx.x = segment * tiles + 32 lines, y = head.
#pragma once
#include "../device.h"

constexpr int kLines = 32, kTogether = 8, kWalkThreads = 128;

/** A token's vector, dealt out to the 4 lanes of a line; the lanes' parts begin at different banks. */
template <int OWN>
struct Spread {
  float elements[kTogether][4 * (OWN + 4)];
};

template <int OWN>
FN const float4* partOf(const Spread<OWN>& from, int token, int share) {
  return reinterpret_cast<const float4*>(from.elements[token] + share * (OWN + 4));
}

/** Brings vectors of `width` of the tokens at(0), at(1) ..., `count` of them: from[offset(token)...], times factor(token). */
template <int OWN, class Offset, class Factor>
FN void bring(Spread<OWN>& to, const float* from, int width, int count, Offset offset, Factor factor) {
  _Pragma("unroll 1")
  for (int i = threadIdx.x; i < kTogether * 4 * OWN; i += kWalkThreads) {
    const int n = i / (4 * OWN), e = i % (4 * OWN);
    const float value = n < count && e < width ? from[offset(n) + e] * factor(n) : 0.0f;
    to.elements[n][e / OWN * (OWN + 4) + e % OWN] = value;
  }
}

/** One element a line of each token. */
template <class Offset>
FN void bringLines(float (&to)[kTogether][kLines], const float* from, int first, int width, int count, Offset offset) {
  for (int i = threadIdx.x; i < kTogether * kLines; i += kWalkThreads) {
    const int n = i / kLines, line = i % kLines;
    to[n][line] = n < count && first + line < width ? from[offset(n) + first + line] : 0.0f;
  }
}

/** The sum over the 4 lanes of a line, the same in each. */
FN float lineSum(float x) {
  x += __shfl_xor_sync(kWholeWarp, x, 1);
  return x + __shfl_xor_sync(kWholeWarp, x, 2);
}

/** Four elements of a line as an array's. */
FN void unpack(const float4& four, float (&each)[4]) { each[0] = four.x, each[1] = four.y, each[2] = four.z, each[3] = four.w; }

/** Along columns: out = what queries read, or (where `errors`) the errors v - S^T k. With `state`, S begins and ends there. */
template <int OWN, class Arguments>
FN void walkColumns(const Arguments& a) {
  struct Shared {
    Spread<OWN> key, query;
    float value[kTogether][kLines];
    float decay[kTogether], rate[kTogether];
  };
  SHARED(Shared, s);
  const i32 segment = (i32)(blockIdx.x / a.tiles), head = (i32)blockIdx.y, keyHead = head * (i32)a.kHeads / (i32)a.vHeads;
  const int first = (int)(blockIdx.x % a.tiles) * kLines, line = threadIdx.x / 4, share = threadIdx.x % 4;
  const int column = first + line, keyWidth = (int)a.keyWidth, valueWidth = (int)a.valueWidth;
  const bool present = column < valueWidth;
  const i32* own = a.table + 4 * segment;
  i32 end = own[0] + own[1];
  if (a.state) {
    // Segments of one row of state are walked by the first one's block.
    if (segment > 0 && own[2 - 4] == own[2]) return;
    for (u32 n = (u32)segment + 1; n < a.count && a.table[4 * n + 2] == own[2]; n++) end = a.table[4 * n] + a.table[4 * n + 1];
  }
  const u64 held = ((u64)own[2] * a.vHeads + head) * a.keyWidth * a.valueWidth + column;
  float matrix[OWN];
  const bool continues = a.state && own[3] > own[1];
  UNROLL
  for (int i = 0; i < OWN; i++) {
    const int k = share * OWN + i;
    matrix[i] = continues && present && k < keyWidth ? a.state[held + (u64)k * a.valueWidth] : 0.0f;
  }
  _Pragma("unroll 1")
  for (i32 t0 = own[0]; t0 < end; t0 += kTogether) {
    const int count = end - t0 < kTogether ? end - t0 : kTogether;
    const auto one = [](int) { return 1.0f; };
    __syncthreads();
    bring(s.query, a.unit, keyWidth, count,
          [&](int n) { return ((u64)(t0 + n) * 2 * a.kHeads + keyHead) * a.keyWidth; }, one);
    bring(s.key, a.unit, keyWidth, count,
          [&](int n) { return ((u64)(t0 + n) * 2 * a.kHeads + a.kHeads + keyHead) * a.keyWidth; }, one);
    bringLines(s.value, a.qkv, first, valueWidth, count, [&](int n) {
      return (u64)(t0 + n) * a.channels + 2 * a.kHeads * a.keyWidth + (u64)head * a.valueWidth;
    });
    if ((int)threadIdx.x < count) {
      const u64 gate = (u64)(t0 + threadIdx.x) * a.vHeads + head;
      s.decay[threadIdx.x] = expf(a.g[gate]);
      s.rate[threadIdx.x] = a.beta[gate];
    }
    __syncthreads();
    _Pragma("unroll 1")
    for (int n = 0; n < count; n++) {
      const float4 *keys = partOf(s.key, n, share), *queries = partOf(s.query, n, share);
      const float decay = s.decay[n];
      // q.(S' + k u) = q.S' + q.k u, so that one exchange serves both.
      float seen[2] = {}, read[2] = {}, alike[2] = {};
      UNROLL
      for (int i = 0; i < OWN / 4; i++) {
        float k[4], q[4];
        unpack(keys[i], k);
        unpack(queries[i], q);
        UNROLL
        for (int e = 0; e < 4; e++) {
          float& element = matrix[4 * i + e];
          element *= decay;
          seen[e & 1] = fmaf(element, k[e], seen[e & 1]);
          read[e & 1] = fmaf(element, q[e], read[e & 1]);
          alike[e & 1] = fmaf(k[e], q[e], alike[e & 1]);
        }
      }
      const float error = s.value[n][line] - lineSum(seen[0] + seen[1]);
      const float learnt = s.rate[n] * error;
      UNROLL
      for (int i = 0; i < OWN / 4; i++) {
        float k[4];
        unpack(keys[i], k);
        UNROLL
        for (int e = 0; e < 4; e++) matrix[4 * i + e] = fmaf(k[e], learnt, matrix[4 * i + e]);
      }
      const float all = lineSum(read[0] + read[1]), along = lineSum(alike[0] + alike[1]);
      if (present && share == 0)
        a.y[((u64)(t0 + n) * a.vHeads + head) * a.valueWidth + column] = a.errors ? error : fmaf(along, learnt, all);
    }
  }
  if (!a.state || !present) return;
  UNROLL
  for (int i = 0; i < OWN; i++) {
    const int k = share * OWN + i;
    if (k < keyWidth) a.state[held + (u64)k * a.valueWidth] = matrix[i];
  }
}

/** S's gradient from a segment's end to its start, along columns: x = k.dS, the gradient of what a token learns before beta. */
template <int OWN, class Arguments>
FN void walkColumnsBack(const Arguments& a) {
  struct Shared {
    Spread<OWN> key, query;
    float upstream[kTogether][kLines];
    float decay[kTogether], rate[kTogether];
  };
  SHARED(Shared, s);
  const i32 segment = (i32)(blockIdx.x / a.tiles), head = (i32)blockIdx.y, keyHead = head * (i32)a.kHeads / (i32)a.vHeads;
  const int first = (int)(blockIdx.x % a.tiles) * kLines, line = threadIdx.x / 4, share = threadIdx.x % 4;
  const int column = first + line, keyWidth = (int)a.keyWidth, valueWidth = (int)a.valueWidth;
  const bool present = column < valueWidth;
  const i32 start = a.table[4 * segment], length = a.table[4 * segment + 1];
  float grad[OWN] = {};
  _Pragma("unroll 1")
  for (i32 step = 0; step < length; step += kTogether) {
    const int count = length - step < kTogether ? length - step : kTogether;
    const i32 last = start + length - 1 - step;
    const auto one = [](int) { return 1.0f; };
    __syncthreads();
    bring(s.query, a.unit, keyWidth, count,
          [&](int n) { return ((u64)(last - n) * 2 * a.kHeads + keyHead) * a.keyWidth; }, one);
    bring(s.key, a.unit, keyWidth, count,
          [&](int n) { return ((u64)(last - n) * 2 * a.kHeads + a.kHeads + keyHead) * a.keyWidth; }, one);
    bringLines(s.upstream, a.dOut, first, valueWidth, count,
               [&](int n) { return ((u64)(last - n) * a.vHeads + head) * a.valueWidth; });
    if ((int)threadIdx.x < count) {
      const u64 gate = (u64)(last - threadIdx.x) * a.vHeads + head;
      s.decay[threadIdx.x] = expf(a.g[gate]);
      s.rate[threadIdx.x] = a.beta[gate];
    }
    __syncthreads();
    _Pragma("unroll 1")
    for (int n = 0; n < count; n++) {
      const float4 *keys = partOf(s.key, n, share), *queries = partOf(s.query, n, share);
      const float upstream = s.upstream[n][line], decay = s.decay[n];
      float sum[2] = {};
      UNROLL
      for (int i = 0; i < OWN / 4; i++) {
        float k[4], q[4];
        unpack(keys[i], k);
        unpack(queries[i], q);
        UNROLL
        for (int e = 0; e < 4; e++) {
          float& element = grad[4 * i + e];
          element = fmaf(q[e], upstream, element);
          sum[e & 1] = fmaf(k[e], element, sum[e & 1]);
        }
      }
      const float x = lineSum(sum[0] + sum[1]), f = s.rate[n] * x;
      UNROLL
      for (int i = 0; i < OWN / 4; i++) {
        float k[4];
        unpack(keys[i], k);
        UNROLL
        for (int e = 0; e < 4; e++) grad[4 * i + e] = fmaf(-k[e], f, grad[4 * i + e]) * decay;
      }
      if (present && share == 0) {
        const i32 t = last - n;
        a.x[((u64)t * a.vHeads + head) * a.valueWidth + column] = x;
        a.dqkv[(u64)t * a.channels + 2 * a.kHeads * a.keyWidth + (u64)head * a.valueWidth + column] = f;
      }
    }
  }
}

/**
 * Gradients of unit queries and keys, along rows. Forward: S itself, out of what each token learnt, gives those of queries
 * and of keys as they are read; back: S's gradient gives that of keys as they are written.
 */
template <int OWN, bool BACK, class Arguments>
FN void walkRows(const Arguments& a) {
  struct Shared {
    Spread<OWN> learnt, grad, upstream;
    float key[kTogether][kLines], query[kTogether][kLines];
    float decay[kTogether];
  };
  SHARED(Shared, s);
  const i32 segment = (i32)(blockIdx.x / a.tiles), head = (i32)blockIdx.y, keyHead = head * (i32)a.kHeads / (i32)a.vHeads;
  const int first = (int)(blockIdx.x % a.tiles) * kLines, line = threadIdx.x / 4, share = threadIdx.x % 4;
  const int row = first + line, keyWidth = (int)a.keyWidth, valueWidth = (int)a.valueWidth;
  const bool present = row < keyWidth;
  const i32 start = a.table[4 * segment], length = a.table[4 * segment + 1];
  float matrix[OWN] = {};
  _Pragma("unroll 1")
  for (i32 step = 0; step < length; step += kTogether) {
    const int count = length - step < kTogether ? length - step : kTogether;
    const i32 from = BACK ? start + length - 1 - step : start + step, way = BACK ? -1 : 1;
    const auto gateOf = [&](int n) { return (u64)(from + way * n) * a.vHeads + head; };
    const auto value = [&](int n) { return gateOf(n) * a.valueWidth; };
    const auto rate = [&](int n) { return a.beta[gateOf(n)]; };
    __syncthreads();
    bring(s.learnt, a.errors, valueWidth, count, value, rate);
    bring(s.grad, a.x, valueWidth, count, value, rate);
    bring(s.upstream, a.dOut, valueWidth, count, value, [](int) { return 1.0f; });
    bringLines(s.query, a.unit, first, keyWidth, count,
               [&](int n) { return ((u64)(from + way * n) * 2 * a.kHeads + keyHead) * a.keyWidth; });
    bringLines(s.key, a.unit, first, keyWidth, count,
               [&](int n) { return ((u64)(from + way * n) * 2 * a.kHeads + a.kHeads + keyHead) * a.keyWidth; });
    if ((int)threadIdx.x < count) s.decay[threadIdx.x] = expf(a.g[gateOf(threadIdx.x)]);
    __syncthreads();
    _Pragma("unroll 1")
    for (int n = 0; n < count; n++) {
      const float4 *learnts = partOf(s.learnt, n, share), *grads = partOf(s.grad, n, share), *upstreams = partOf(s.upstream, n, share);
      const float key = s.key[n][line], query = s.query[n][line], decay = s.decay[n];
      float sums[2] = {};
      UNROLL
      for (int i = 0; i < OWN / 4; i++) {
        float l[4], g[4], u[4];
        unpack(learnts[i], l);
        unpack(grads[i], g);
        unpack(upstreams[i], u);
        UNROLL
        for (int e = 0; e < 4; e++) {
          float& element = matrix[4 * i + e];
          if (BACK) {
            const float whole = fmaf(query, u[e], element);
            sums[0] = fmaf(whole, l[e], sums[0]);
            element = fmaf(-key, g[e], whole) * decay;
          } else {
            const float before = element * decay;
            element = fmaf(key, l[e], before);
            sums[0] = fmaf(element, u[e], sums[0]);
            sums[1] = fmaf(-before, g[e], sums[1]);
          }
        }
      }
      sums[0] = lineSum(sums[0]);
      if (!BACK) sums[1] = lineSum(sums[1]);
      if (!present || share > 0) continue;
      const u64 to = gateOf(n) * a.keyWidth + row;
      if (BACK) {
        a.written[to] = sums[0];
      } else {
        a.queries[to] = sums[0];
        a.read[to] = sums[1];
      }
    }
  }
}
