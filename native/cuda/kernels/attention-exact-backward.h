// Attention's backward pass in f32 for attention-backward.cu: dQ by blocks of 64 queries of a head, dK
// and dV by blocks of 64 keys of a key/value head. Wider heads than 64 CHUNKS columns are several blocks.
#pragma once
#include "attention-exact-tiles.h"

/** Turns a product of q and k into P, and dP = dOut v^T into scale dS. */
template <class Arguments>
FN void exactSoftmaxBackward(float& score, float& slope, const Arguments& a, float lse, float delta, bool seen) {
  float x = score * a.scale, scale = a.scale;
  if (a.softcap > 0) {
    const float bounded = tanhf(x / a.softcap);
    x = bounded * a.softcap;
    scale *= 1 - bounded * bounded;
  }
  score = seen ? expf(x - lse) : 0.0f;
  slope = seen ? score * (slope - delta) * scale : 0.0f;
}

template <int CHUNKS, class Arguments>
FN void exactByQuery(const Arguments& a) {
  DYNAMIC_SHARED(ExactTiles, s);
  const Segment segment = segmentAt(a.table, blockIdx.x / a.tiles);
  const int query0 = (int)(a.tiles - 1 - blockIdx.x % a.tiles) * kTile;
  if (query0 >= segment.qLength) return;
  const int head = blockIdx.y % a.heads, column = (int)(blockIdx.y / a.heads) * kTile * CHUNKS;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16, window = (int)a.window;
  const u32 kvHead = head * a.kvHeads / a.heads;
  const int start = segment.qStart + query0, count = segment.qLength - query0;
  const ExactSource q = exactSourceOf(a.q, a.heads, head, a.width, start, count);
  const ExactSource dOut = exactSourceOf(a.dOut, a.heads, head, a.width, start, count);
  float lse[4] = {}, delta[4] = {};
  UNROLL
  for (int i = 0; i < 4; i++) {
    if (y + 16 * i >= count) continue;
    const u64 from = (u64)(start + y + 16 * i) * a.heads + head;
    lse[i] = a.lse[from];
    delta[i] = a.delta[from];
  }
  float sums[CHUNKS][4][4] = {};
  const int endKey = smaller(segment.kLength, query0 + kTile);
  ROLLED
  for (int key0 = firstKeyOf(query0, window) / kTile * kTile; key0 < endKey; key0 += kTile) {
    const int from = segment.kStart + key0, rest = segment.kLength - key0;
    const ExactSource k = exactSourceOf(a.k, a.kvHeads, kvHead, a.width, from, rest);
    float scores[4][4], slopes[4][4];
    multiplyExact(scores, q, k, s);
    multiplyExact(slopes, dOut, exactSourceOf(a.v, a.kvHeads, kvHead, a.width, from, rest), s);
    UNROLL
    for (int i = 0; i < 4; i++) {
      UNROLL
      for (int j = 0; j < 4; j++) {
        const bool seen = sees(query0 + y + 16 * i, key0 + x + 16 * j, window);
        exactSoftmaxBackward(scores[i][j], slopes[i][j], a, lse[i], delta[i], seen);
      }
    }
    storeWeights(slopes, s);
    addProducts(sums, k, column, s);
  }
  UNROLL
  for (int i = 0; i < 4; i++) {
    if (y + 16 * i >= count) continue;
    const u64 to = ((u64)(start + y + 16 * i) * a.heads + head) * a.width;
    storeExact(sums, i, 1, a.dq + to, column, (int)a.width);
  }
}

template <int CHUNKS, class Arguments>
FN void exactByKey(const Arguments& a) {
  DYNAMIC_SHARED(ExactTiles, s);
  const Segment segment = segmentAt(a.table, blockIdx.x / a.tiles);
  const int key0 = (int)(blockIdx.x % a.tiles) * kTile;
  if (key0 >= segment.kLength) return;
  const u32 kvHead = blockIdx.y % a.kvHeads, group = a.heads / a.kvHeads;
  const int column = (int)(blockIdx.y / a.kvHeads) * kTile * CHUNKS;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16, window = (int)a.window;
  const int start = segment.kStart + key0, count = segment.kLength - key0;
  const ExactSource k = exactSourceOf(a.k, a.kvHeads, kvHead, a.width, start, count);
  const ExactSource v = exactSourceOf(a.v, a.kvHeads, kvHead, a.width, start, count);
  float sumsK[CHUNKS][4][4] = {}, sumsV[CHUNKS][4][4] = {};
  const int endQuery = window > 0 ? smaller(segment.qLength, key0 + kTile - 1 + window) : segment.qLength;
  ROLLED
  for (u32 head = kvHead * group; head < (kvHead + 1) * group; head++) {
    ROLLED
    for (int query0 = key0; query0 < endQuery; query0 += kTile) {
      const int from = segment.qStart + query0, rest = segment.qLength - query0;
      const ExactSource q = exactSourceOf(a.q, a.heads, head, a.width, from, rest);
      const ExactSource dOut = exactSourceOf(a.dOut, a.heads, head, a.width, from, rest);
      float scores[4][4], slopes[4][4];
      multiplyExact(scores, k, q, s);
      multiplyExact(slopes, v, dOut, s);
      UNROLL
      for (int j = 0; j < 4; j++) {
        const int own = x + 16 * j;
        const u64 at = (u64)(from + own) * a.heads + head;
        const float lse = own < rest ? a.lse[at] : 0, delta = own < rest ? a.delta[at] : 0;
        UNROLL
        for (int i = 0; i < 4; i++) {
          const bool seen = own < rest && sees(query0 + own, key0 + y + 16 * i, window);
          exactSoftmaxBackward(scores[i][j], slopes[i][j], a, lse, delta, seen);
        }
      }
      storeWeights(scores, s);
      addProducts(sumsV, dOut, column, s);
      __syncthreads();
      storeWeights(slopes, s);
      addProducts(sumsK, q, column, s);
    }
  }
  UNROLL
  for (int i = 0; i < 4; i++) {
    if (y + 16 * i >= count) continue;
    const u64 to = ((u64)(start + y + 16 * i) * a.kvHeads + kvHead) * a.width;
    storeExact(sumsK, i, 1, a.dk + to, column, (int)a.width);
    storeExact(sumsV, i, 1, a.dv + to, column, (int)a.width);
  }
}
