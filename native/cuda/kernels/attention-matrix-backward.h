// Attention's backward pass on tensor cores, for attention-backward.cu: one kernel for dQ, one for dK and dV. Each makes the probabilities again from
// lse, so that nobody adds to what another adds to, and sums have one order. Dao 2023, "FlashAttention-2", whose one
// kernel needs atomic additions. Not here: delta and the sinks' gradient (attention-rows.cu), f32 (attention-exact-backward.h).
#pragma once
#include "attention-tiles.h"

/** What scores are multiplied by on their way to units of log2, and their cap. */
struct ScoreUnits {
  float scale, unit, softcap, inside;
};

template <class Arguments>
FN ScoreUnits unitsOf(const Arguments& a) {
  return {a.scale, a.scale * kLog2E, a.softcap, a.softcap > 0 ? 2 * kLog2E * a.scale / a.softcap : 0};
}

/** Turns a product of q and k into P, and dP = dOut v^T into scale dS; lse is in units of log2. */
FN void softmaxBackward(float& score, float& slope, const ScoreUnits& u, float lse, float delta, bool seen) {
  float x = score * u.unit, scale = u.scale;
  if (u.softcap > 0) {
    const float bounded = 1 - 2 * quickReciprocal(quickExp2(score * u.inside) + 1);  // tanh
    x = bounded * u.softcap * kLog2E;
    scale *= 1 - bounded * bounded;
  }
  score = seen ? quickExp2(x - lse) : 0.0f;
  slope = seen ? score * (slope - delta) * scale : 0.0f;
}

template <int D, int KEYS, int ROW_WARPS>
struct QueryShared {
  uint4 q[rowsSize<D, 16 * ROW_WARPS>], dOut[rowsSize<D, 16 * ROW_WARPS>];
  uint4 k[rowsSize<D, KEYS>], v[rowsSize<D, KEYS>], kPairs[pairsSize<D, KEYS>];
};

/** dQ = dS K of 16 ROW_WARPS queries of a head. */
template <int D, int KEYS, int ROW_WARPS, int COLUMN_WARPS, class Arguments>
FN void backwardByQuery(const Arguments& a) {
  using Tiles = QueryShared<D, KEYS, ROW_WARPS>;
  DYNAMIC_SHARED(Tiles, s);
  constexpr int threads = 32 * ROW_WARPS * COLUMN_WARPS, queries = 16 * ROW_WARPS, columns = D / COLUMN_WARPS;
  constexpr int blocks = KEYS / 8;
  const Segment segment = segmentAt(a.table, blockIdx.x / a.tiles);
  const int query0 = (int)(a.tiles - 1 - blockIdx.x % a.tiles) * queries, head = blockIdx.y;
  if (query0 >= segment.qLength) return;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int row = warp % ROW_WARPS * 16, column = warp / ROW_WARPS * columns;
  const int width = (int)a.width, window = (int)a.window;
  const u32 kvHead = head * a.kvHeads / a.heads;
  const int start = segment.qStart + query0, count = segment.qLength - query0;
  const ScoreUnits units = unitsOf(a);
  loadRows<D, queries, threads>(s.q, sourceOf(a.q, a.heads, head, a.width, start, count));
  loadRows<D, queries, threads>(s.dOut, sourceOf(a.dOut, a.heads, head, a.width, start, count));
  float lse[2] = {0, 0}, delta[2] = {0, 0};
  UNROLL
  for (int r = 0; r < 2; r++) {
    const int own = row + g + 8 * r;
    if (own >= count) continue;
    lse[r] = a.lse[(u64)(start + own) * a.heads + head] * kLog2E;
    delta[r] = a.delta[(u64)(start + own) * a.heads + head];
  }
  float sums[columns / 8][4] = {};
  const int endKey = smaller(segment.kLength, query0 + queries);
  ROLLED
  for (int key0 = firstKeyOf(query0, window) / KEYS * KEYS; key0 < endKey; key0 += KEYS) {
    const Source k = sourceOf(a.k, a.kvHeads, kvHead, a.width, segment.kStart + key0, segment.kLength - key0);
    __syncthreads();
    loadBoth<D, KEYS, threads>(s.k, s.kPairs, k);
    loadRows<D, KEYS, threads>(
        s.v, sourceOf(a.v, a.kvHeads, kvHead, a.width, segment.kStart + key0, segment.kLength - key0));
    __syncthreads();
    float scores[blocks][4] = {}, slopes[blocks][4] = {};
    multiplyRows<D>(scores, s.q, row, s.k, width);
    multiplyRows<D>(slopes, s.dOut, row, s.v, width);
    UNROLL
    for (int j = 0; j < blocks; j++) {
      UNROLL
      for (int e = 0; e < 4; e++) {
        const bool seen = sees(query0 + row + g + 8 * (e >> 1), key0 + 8 * j + 2 * t + (e & 1), window);
        softmaxBackward(scores[j][e], slopes[j][e], units, lse[e >> 1], delta[e >> 1], seen);
      }
    }
    u32 left[blocks / 2][4];
    toLeft(slopes, left);
    multiplyPairs<D, blocks / 2, columns>(sums, left, s.kPairs, column, width);
  }
  UNROLL
  for (int r = 0; r < 2; r++) {
    const int own = row + g + 8 * r;
    if (own >= count) continue;
    storeRow<columns>(sums, r == 0, 1, a.dq + ((u64)(start + own) * a.heads + head) * a.width, column, width);
  }
}

template <int D, int QUERIES, int ROW_WARPS>
struct KeyShared {
  uint4 k[rowsSize<D, 16 * ROW_WARPS>], v[rowsSize<D, 16 * ROW_WARPS>];
  uint4 q[rowsSize<D, QUERIES>], dOut[rowsSize<D, QUERIES>];
  uint4 qPairs[pairsSize<D, QUERIES>], dOutPairs[pairsSize<D, QUERIES>];
  float lse[QUERIES], delta[QUERIES];
};

/** dV = P^T dOut and dK = dS^T Q of 16 ROW_WARPS keys of a key/value head, over every head that reads it, in order. */
template <int D, int QUERIES, int ROW_WARPS, int COLUMN_WARPS, class Arguments>
FN void backwardByKey(const Arguments& a) {
  using Tiles = KeyShared<D, QUERIES, ROW_WARPS>;
  DYNAMIC_SHARED(Tiles, s);
  constexpr int threads = 32 * ROW_WARPS * COLUMN_WARPS, keys = 16 * ROW_WARPS, columns = D / COLUMN_WARPS;
  constexpr int blocks = QUERIES / 8;
  const Segment segment = segmentAt(a.table, blockIdx.x / a.tiles);
  // Earlier keys are seen by more queries.
  const int key0 = (int)(blockIdx.x % a.tiles) * keys;
  if (key0 >= segment.kLength) return;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int row = warp % ROW_WARPS * 16, column = warp / ROW_WARPS * columns;
  const int width = (int)a.width, window = (int)a.window;
  const u32 kvHead = blockIdx.y, group = a.heads / a.kvHeads;
  const int start = segment.kStart + key0, count = segment.kLength - key0;
  const ScoreUnits units = unitsOf(a);
  loadRows<D, keys, threads>(s.k, sourceOf(a.k, a.kvHeads, kvHead, a.width, start, count));
  loadRows<D, keys, threads>(s.v, sourceOf(a.v, a.kvHeads, kvHead, a.width, start, count));
  float sumsK[columns / 8][4] = {}, sumsV[columns / 8][4] = {};
  const int endQuery = window > 0 ? smaller(segment.qLength, key0 + keys - 1 + window) : segment.qLength;
  ROLLED
  for (u32 head = kvHead * group; head < (kvHead + 1) * group; head++) {
    ROLLED
    for (int query0 = key0 / QUERIES * QUERIES; query0 < endQuery; query0 += QUERIES) {
      const int first = segment.qStart + query0, rest = segment.qLength - query0;
      const Source q = sourceOf(a.q, a.heads, head, a.width, first, rest);
      const Source dOut = sourceOf(a.dOut, a.heads, head, a.width, first, rest);
      __syncthreads();
      loadBoth<D, QUERIES, threads>(s.q, s.qPairs, q);
      loadBoth<D, QUERIES, threads>(s.dOut, s.dOutPairs, dOut);
      if (threadIdx.x < QUERIES) {
        const int own = threadIdx.x;
        const u64 from = (u64)(first + own) * a.heads + head;
        s.lse[own] = own < rest ? a.lse[from] * kLog2E : 0;
        s.delta[own] = own < rest ? a.delta[from] : 0;
      }
      __syncthreads();
      float scores[blocks][4] = {}, slopes[blocks][4] = {};
      multiplyRows<D>(scores, s.k, row, s.q, width);
      multiplyRows<D>(slopes, s.v, row, s.dOut, width);
      UNROLL
      for (int j = 0; j < blocks; j++) {
        UNROLL
        for (int e = 0; e < 4; e++) {
          const int own = 8 * j + 2 * t + (e & 1);
          const bool seen = own < rest && sees(query0 + own, key0 + row + g + 8 * (e >> 1), window);
          softmaxBackward(scores[j][e], slopes[j][e], units, s.lse[own], s.delta[own], seen);
        }
      }
      u32 left[blocks / 2][4];
      toLeft(scores, left);
      multiplyPairs<D, blocks / 2, columns>(sumsV, left, s.dOutPairs, column, width);
      toLeft(slopes, left);
      multiplyPairs<D, blocks / 2, columns>(sumsK, left, s.qPairs, column, width);
    }
  }
  UNROLL
  for (int r = 0; r < 2; r++) {
    const int own = row + g + 8 * r;
    if (own >= count) continue;
    const u64 to = ((u64)(start + own) * a.kvHeads + kvHead) * a.width;
    storeRow<columns>(sumsK, r == 0, 1, a.dk + to, column, width);
    storeRow<columns>(sumsV, r == 0, 1, a.dv + to, column, width);
  }
}

static_assert(sizeof(QueryShared<64, 32, 4>) == 29184 && sizeof(QueryShared<128, 32, 4>) == 57856);
static_assert(sizeof(QueryShared<256, 16, 4>) == 90368 && sizeof(QueryShared<512, 16, 1>) == 82176);
static_assert(sizeof(KeyShared<64, 32, 4>) == 34048 && sizeof(KeyShared<128, 32, 4>) == 66816);
static_assert(sizeof(KeyShared<256, 16, 2>) == 66176 && sizeof(KeyShared<512, 16, 1>) == 98944);
