// Attention of few queries a segment over long caches (token generation), in f32 in every precision, for memory is what it
// waits for. A block takes a part of the keys for one query and up to HEADS of the heads that read them: all of the part's
// keys and values are asked for at once. attentionCombine then adds the parts in order. Parts are counted from the segment's
// first key and their size follows from the width, so a row's bits depend on nothing but its own segment. Not here: many
// queries (attention.cu).
//
// A part of a row: [width] sums of exp(score - largest) v, then largest, then the sum of exp(score - largest).
#include "attention.h"

struct AttentionDecodeArguments {
  const float* q;
  const float* k;
  const float* v;
  const i32* table;
  const i32* blocks;  // lists of blocks of keys, or absent
  float* parts;  // [tq, heads, parts, width + 2]; only those that hold a visible key are written
  u32 heads, kvHeads, width, window;
  u32 partsEach;  // of the longest segment
  u32 partKeys;   // keys of a part: at most 128, and at most 8192 elements
  u32 blockTokens;  // a multiple of 64
  float scale, softcap;
};

struct AttentionCombineArguments {
  const float* parts;
  const i32* table;
  const float* sinks;  // [heads] or absent
  float* out;
  float* lse;
  u32 heads, width, window;
  u32 partsEach, partKeys;
};

constexpr int kPartElements = 8192, kMostKeys = 128, kDecodeThreads = 256, kWidest = 512;

template <int HEADS>
struct DecodeShared {
  float4 keys[kPartElements / 4];  // later sums of groups of threads
  float4 values[kPartElements / 4];
  float4 queries[HEADS * kWidest / 4];
  float scores[HEADS][kMostKeys];
};
static_assert(4 * kDecodeThreads * 8 <= kPartElements);

/** Where the rows of a part begin: its first 64 keys, and those behind them, lie together each. */
struct PartRows {
  u64 first, second;
};
FN u64 rowOf(const PartRows& rows, int key) { return key < 64 ? rows.first + key : rows.second + (key - 64); }

/** Rows first to end of a head's keys or values, to where they are in their part. */
template <int VECTOR>
FN void askFor(float4* to, const float* from, const PartRows& rows, u64 stride, int first, int end, int width) {
  const int each = width / VECTOR;
  _Pragma("unroll 4")
  for (int i = first * each + (int)threadIdx.x; i < end * each; i += kDecodeThreads) {
    const int key = i / each, d = i % each * VECTOR;
    float* place = reinterpret_cast<float*>(to) + key * width + d;
    if constexpr (VECTOR == 4) copyAsync16(place, from + rowOf(rows, key) * stride + d);
    else copyAsync4(place, from + rowOf(rows, key) * stride + d);
  }
  commitCopies();
}

/** blockIdx: x = segment * parts + part, y = key/value head * blocks + block of HEADS heads, z = query. */
template <int HEADS, int VECTOR>
FN void decodePart(const AttentionDecodeArguments& a) {
  DYNAMIC_SHARED(DecodeShared<HEADS>, s);
  const Segment segment = segmentAt(a.table, blockIdx.x / a.partsEach);
  const int query = blockIdx.z, part = blockIdx.x % a.partsEach, partKeys = (int)a.partKeys;
  if (query >= segment.qLength) return;
  const int position = segment.before + query, key0 = part * partKeys;
  const int first = larger(0, firstKeyOf(position, (int)a.window) - key0), end = smaller(partKeys, position + 1 - key0);
  if (first >= end) return;
  const u32 group = a.heads / a.kvHeads, blocks = (group + HEADS - 1) / HEADS;
  const u32 kvHead = blockIdx.y / blocks, head0 = kvHead * group + blockIdx.y % blocks * HEADS;
  const int heads = smaller(HEADS, (int)((kvHead + 1) * group - head0));
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, width = (int)a.width;
  const u64 row = (u64)(segment.qStart + query) * a.heads + head0;
  const u64 stride = (u64)a.kvHeads * a.width, start = (u64)kvHead * a.width;
  PartRows rows;
  rows.first = (u64)keyRowOf(segment, key0, a.blocks, a.blockTokens);
  rows.second = end > 64 ? (u64)keyRowOf(segment, key0 + 64, a.blocks, a.blockTokens) : rows.first;
  askFor<VECTOR>(s.keys, a.k + start, rows, stride, first, end, width);
  askFor<VECTOR>(s.values, a.v + start, rows, stride, first, end, width);
  float* queries = reinterpret_cast<float*>(s.queries);
  ROLLED
  for (int i = tid; i < heads * width; i += kDecodeThreads) queries[i] = a.q[row * a.width + i];
  waitCopies<1>();
  __syncthreads();
  // Eight lanes a key.
  const int sub = lane % 8;
  const float* keys = reinterpret_cast<const float*>(s.keys);
  ROLLED
  for (int from = 0; from < end; from += kDecodeThreads / 8) {
    const int key = from + tid / 8;
    const bool seen = key >= first && key < end;
    float sums[HEADS] = {};
    ROLLED
    for (int d = sub * VECTOR; seen && d < width; d += 8 * VECTOR) {
      if constexpr (VECTOR == 4) {
        const float4 k = *(const float4*)(keys + key * width + d);
        UNROLL
        for (int h = 0; h < HEADS; h++) {
          if (h >= heads) break;
          const float4 q = *(const float4*)(queries + h * width + d);
          sums[h] = fmaf(q.w, k.w, fmaf(q.z, k.z, fmaf(q.y, k.y, fmaf(q.x, k.x, sums[h]))));
        }
      } else {
        UNROLL
        for (int h = 0; h < HEADS; h++) {
          if (h < heads) sums[h] = fmaf(queries[h * width + d], keys[key * width + d], sums[h]);
        }
      }
    }
    UNROLL
    for (int h = 0; h < HEADS; h++) {
      float score = sums[h];
      score += laneXor(score, 1);
      score += laneXor(score, 2);
      score += laneXor(score, 4);
      if (sub == 0 && seen) s.scores[h][key] = score;
    }
  }
  waitCopies<0>();
  __syncthreads();
  float* parts = a.parts + (row * a.partsEach + part) * (width + 2);
  const u64 partStride = (u64)a.partsEach * (width + 2);
  ROLLED
  for (int h = warp; h < heads; h += kDecodeThreads / 32) {
    float top = kHidden, total = 0;
    ROLLED
    for (int key = first + lane; key < end; key += 32) {
      float score = s.scores[h][key] * a.scale;
      if (a.softcap > 0) score = a.softcap * tanhf(score / a.softcap);
      s.scores[h][key] = score;
      top = fmaxf(top, score);
    }
    top = warpMaximum(top);
    ROLLED
    for (int key = first + lane; key < end; key += 32) {
      const float weight = expf(s.scores[h][key] - top);
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
  const float* values = reinterpret_cast<const float*>(s.values);
  float* shares = reinterpret_cast<float*>(s.keys);
  ROLLED
  for (int base = 0; base < columns; base += across) {
    const int column = base + tid % across, own = tid / across;
    float sums[HEADS][VECTOR] = {};
    __syncthreads();
    if (own < groups && column < columns) {
      _Pragma("unroll 2")
      for (int key = first + own; key < end; key += groups) {
        float v[VECTOR];
        if constexpr (VECTOR == 4) {
          const float4 four = *(const float4*)(values + key * width + column * VECTOR);
          v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
        } else {
          v[0] = values[key * width + column];
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
        for (int e = 0; e < VECTOR; e++) shares[((own * HEADS + h) * across + tid % across) * VECTOR + e] = sums[h][e];
      }
    }
    __syncthreads();
    const int count = smaller(across, columns - base) * VECTOR;
    ROLLED
    for (int i = tid; i < heads * count; i += kDecodeThreads) {
      const int h = i / count, d = i % count;
      float sum = 0;
      ROLLED
      for (int other = 0; other < groups; other++) sum += shares[(other * HEADS + h) * across * VECTOR + d];
      parts[h * partStride + base * VECTOR + d] = sum;
    }
  }
}

// Widths that are multiples of 4 and tensors at multiples of 16 bytes; attentionDecodeAny takes any.
KERNEL(attentionDecode1, AttentionDecodeArguments, 256, 1, 68096) { decodePart<1, 4>(a); }
KERNEL(attentionDecode4, AttentionDecodeArguments, 256, 1, 75776) { decodePart<4, 4>(a); }
KERNEL(attentionDecode8, AttentionDecodeArguments, 256, 1, 86016) { decodePart<8, 4>(a); }
KERNEL(attentionDecodeAny, AttentionDecodeArguments, 256, 1, 75776) { decodePart<4, 1>(a); }
static_assert(sizeof(DecodeShared<1>) == 68096 && sizeof(DecodeShared<4>) == 75776 && sizeof(DecodeShared<8>) == 86016);

constexpr int kCombineThreads = 512;

/** blockIdx: x = segment, y = head, z = query. Threads share the columns, and groups of threads the parts. */
KERNEL(attentionCombine, AttentionCombineArguments, 512, 1, 0) {
  SHARED_ARRAY(float, weights, kCombineThreads);
  SHARED_ARRAY(float, sums, kCombineThreads);
  const Segment segment = segmentAt(a.table, blockIdx.x);
  const int query = blockIdx.z, head = blockIdx.y, width = (int)a.width, tid = threadIdx.x;
  if (query >= segment.qLength) return;
  const int position = segment.before + query, partKeys = (int)a.partKeys;
  const int first = firstKeyOf(position, (int)a.window) / partKeys, end = position / partKeys + 1;
  const u64 row = (u64)(segment.qStart + query) * a.heads + head, size = a.width + 2;
  const float* parts = a.parts + row * a.partsEach * size;
  float top = a.sinks ? a.sinks[head] : kHidden;
  for (int part = first + tid; part < end; part += kCombineThreads) top = fmaxf(top, parts[part * size + width]);
  top = blockMaximum<kCombineThreads>(top);
  float total = a.sinks && tid == 0 ? expf(a.sinks[head] - top) : 0.0f, sum = 0;
  const int groups = kCombineThreads / width, group = tid / width, column = tid % width;
  for (int start = first; start < end; start += kCombineThreads) {
    const int count = smaller(kCombineThreads, end - start);
    if (tid < count) {
      const float* own = parts + (start + tid) * size + width;
      const float weight = expf(own[0] - top);
      weights[tid] = weight;
      total = fmaf(weight, own[1], total);
    }
    __syncthreads();
    if (group < groups) {
      for (int part = group; part < count; part += groups)
        sum = fmaf(weights[part], parts[(start + part) * size + column], sum);
    }
    __syncthreads();
  }
  total = blockSum<kCombineThreads>(total);
  sums[tid] = sum;
  __syncthreads();
  if (tid < width) {
    sum = 0;
    for (int other = 0; other < groups; other++) sum += sums[other * width + tid];
    a.out[row * a.width + tid] = sum / total;
  }
  if (tid == 0) a.lse[row] = top + logf(total);
}
