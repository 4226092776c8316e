// Attention of few queries a segment over long caches (token generation), in f32 in every precision, for memory is what it
// waits for. A block takes 128 keys for one query and up to HEADS of the heads that read them, so that a group's heads
// read its keys once; attentionCombine then adds the parts in order. Parts are counted from the segment's first key, so a
// row's bits depend on nothing but its own segment. Not here: many queries (attention.cu).
//
// A part of a row: [width] sums of exp(score - largest) v, then largest, then the sum of exp(score - largest).
#include "attention.h"

struct AttentionDecodeArguments {
  const float* q;
  const float* k;
  const float* v;
  const i32* table;
  float* parts;  // [tq, heads, parts, width + 2]; only those that hold a visible key are written
  u32 heads, kvHeads, width, window;
  u32 partsEach;  // of the longest segment
  float scale, softcap;
};

struct AttentionCombineArguments {
  const float* parts;
  const i32* table;
  const float* sinks;  // [heads] or absent
  float* out;
  float* lse;
  u32 heads, width, window;
  u32 partsEach;
};

constexpr int kPartKeys = 128, kDecodeThreads = 128, kWidest = 512;

template <int HEADS>
struct DecodeShared {
  float memory[HEADS * kWidest];  // queries, then sums of V
  float scores[HEADS][kPartKeys];
};

/** blockIdx: x = segment * parts + part, y = key/value head * blocks + block of HEADS heads, z = query. */
template <int HEADS, int VECTOR>
FN void decodePart(const AttentionDecodeArguments& a) {
  SHARED(DecodeShared<HEADS>, s);
  const Segment segment = segmentAt(a.table, blockIdx.x / a.partsEach);
  const int query = blockIdx.z, part = blockIdx.x % a.partsEach;
  if (query >= segment.qLength) return;
  const int position = segment.before + query, key0 = part * kPartKeys;
  const int first = larger(0, firstKeyOf(position, (int)a.window) - key0), end = smaller(kPartKeys, position + 1 - key0);
  if (first >= end) return;
  const u32 group = a.heads / a.kvHeads, blocks = (group + HEADS - 1) / HEADS;
  const u32 kvHead = blockIdx.y / blocks, head0 = kvHead * group + blockIdx.y % blocks * HEADS;
  const int heads = smaller(HEADS, (int)((kvHead + 1) * group - head0));
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, width = (int)a.width;
  const u64 row = (u64)(segment.qStart + query) * a.heads + head0;
  const u64 stride = (u64)a.kvHeads * a.width;
  const float* keys = a.k + (u64)(segment.kStart + key0) * stride + (u64)kvHead * a.width;
  const float* values = a.v + (u64)(segment.kStart + key0) * stride + (u64)kvHead * a.width;

  ROLLED
  for (int i = tid; i < heads * width; i += kDecodeThreads) s.memory[i] = a.q[row * a.width + i];
  __syncthreads();
  // Eight lanes a key.
  const int sub = lane % 8;
  ROLLED
  for (int start = 0; start < kPartKeys; start += 16) {
    const int key = start + warp * 4 + lane / 8;
    const bool seen = key >= first && key < end;
    float sums[HEADS] = {};
    if (seen) {
      const float* from = keys + (u64)key * stride;
      for (int d = sub * VECTOR; d < width; d += 8 * VECTOR) {
        if constexpr (VECTOR == 4) {
          const float4 k = *(const float4*)(from + d);
          UNROLL
          for (int h = 0; h < HEADS; h++) {
            if (h >= heads) break;
            const float4 q = *(const float4*)(s.memory + h * width + d);
            sums[h] = fmaf(q.w, k.w, fmaf(q.z, k.z, fmaf(q.y, k.y, fmaf(q.x, k.x, sums[h]))));
          }
        } else {
          UNROLL
          for (int h = 0; h < HEADS; h++) {
            if (h < heads) sums[h] = fmaf(s.memory[h * width + d], from[d], sums[h]);
          }
        }
      }
    }
    UNROLL
    for (int h = 0; h < HEADS; h++) {
      float score = sums[h];
      score += laneXor(score, 1);
      score += laneXor(score, 2);
      score += laneXor(score, 4);
      if (sub == 0) s.scores[h][key] = score;
    }
  }
  __syncthreads();
  float* parts = a.parts + (row * a.partsEach + part) * (width + 2);
  const u64 partStride = (u64)a.partsEach * (width + 2);
  ROLLED
  for (int h = warp; h < heads; h += kDecodeThreads / 32) {
    float top = kHidden, total = 0;
    ROLLED
    for (int key = lane; key < kPartKeys; key += 32) {
      float score = s.scores[h][key] * a.scale;
      if (a.softcap > 0) score = a.softcap * tanhf(score / a.softcap);
      if (key < first || key >= end) score = kHidden;
      s.scores[h][key] = score;
      top = fmaxf(top, score);
    }
    top = warpMaximum(top);
    ROLLED
    for (int key = lane; key < kPartKeys; key += 32) {
      const float score = s.scores[h][key], weight = score == kHidden ? 0.0f : expf(score - top);
      s.scores[h][key] = weight;
      total += weight;
    }
    total = warpSum(total);
    if (lane == 0) {
      parts[h * partStride + width] = top;
      parts[h * partStride + width + 1] = total;
    }
  }
  // Threads share the columns; where these are few, groups of threads share the keys.
  const int columns = width / VECTOR, across = smaller(columns, kDecodeThreads), groups = kDecodeThreads / across;
  ROLLED
  for (int base = 0; base < columns; base += across) {
    const int column = base + tid % across, own = tid / across;
    float sums[HEADS][VECTOR] = {};
    __syncthreads();
    if (own < groups && column < columns) {
      for (int key = first + own; key < end; key += groups) {
        const float* from = values + (u64)key * stride + column * VECTOR;
        float v[VECTOR];
        if constexpr (VECTOR == 4) {
          const float4 four = *(const float4*)from;
          v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
        } else {
          v[0] = from[0];
        }
        UNROLL
        for (int h = 0; h < HEADS; h++) {
          if (h >= heads) break;
          UNROLL
          for (int e = 0; e < VECTOR; e++) sums[h][e] = fmaf(s.scores[h][key], v[e], sums[h][e]);
        }
      }
      UNROLL
      for (int h = 0; h < HEADS; h++) {
        if (h >= heads) break;
        UNROLL
        for (int e = 0; e < VECTOR; e++) s.memory[((own * HEADS + h) * across + tid % across) * VECTOR + e] = sums[h][e];
      }
    }
    __syncthreads();
    const int count = smaller(across, columns - base) * VECTOR;
    ROLLED
    for (int i = tid; i < heads * count; i += kDecodeThreads) {
      const int h = i / count, d = i % count;
      float sum = 0;
      ROLLED
      for (int other = 0; other < groups; other++) sum += s.memory[(other * HEADS + h) * across * VECTOR + d];
      parts[h * partStride + base * VECTOR + d] = sum;
    }
  }
}

// Widths and strides that are multiples of 4, tensors at multiples of 16 bytes; attentionDecodeAny takes any.
KERNEL(attentionDecode1, AttentionDecodeArguments, 128, 1, 0) { decodePart<1, 4>(a); }
KERNEL(attentionDecode4, AttentionDecodeArguments, 128, 1, 0) { decodePart<4, 4>(a); }
KERNEL(attentionDecode8, AttentionDecodeArguments, 128, 1, 0) { decodePart<8, 4>(a); }
KERNEL(attentionDecodeAny, AttentionDecodeArguments, 128, 1, 0) { decodePart<4, 1>(a); }

/** blockIdx: x = segment, y = head, z = query. */
KERNEL(attentionCombine, AttentionCombineArguments, 128, 1, 0) {
  const Segment segment = segmentAt(a.table, blockIdx.x);
  const int query = blockIdx.z, head = blockIdx.y, width = (int)a.width;
  if (query >= segment.qLength) return;
  const int position = segment.before + query;
  const int first = firstKeyOf(position, (int)a.window) / kPartKeys, end = position / kPartKeys + 1;
  const u64 row = (u64)(segment.qStart + query) * a.heads + head;
  const float* parts = a.parts + row * a.partsEach * (width + 2);
  float top = a.sinks ? a.sinks[head] : kHidden;
  for (int part = first; part < end; part++) top = fmaxf(top, parts[(u64)part * (width + 2) + width]);
  float total = a.sinks ? expf(a.sinks[head] - top) : 0.0f;
  for (int part = first; part < end; part++) {
    const float* from = parts + (u64)part * (width + 2) + width;
    total = fmaf(expf(from[0] - top), from[1], total);
  }
  for (int d = threadIdx.x; d < width; d += 128) {
    float sum = 0;
    for (int part = first; part < end; part++) {
      const float* from = parts + (u64)part * (width + 2);
      sum = fmaf(expf(from[width] - top), from[d], sum);
    }
    a.out[row * a.width + d] = sum / total;
  }
  if (threadIdx.x == 0) a.lse[row] = top + logf(total);
}
