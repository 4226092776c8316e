// Attention's forward pass on tensor cores, for attention.cu: bf16 operands and probabilities, f32 sums, one sweep over the keys with a
// running maximum. Dao 2023, "FlashAttention-2". Not here: few queries (attention-decode.cu), f32 (attention-exact.h).
//
// A block holds ROW_WARPS times 16 queries of one head; where a row's sums do not fit a warp's registers, COLUMN_WARPS
// warps share its columns, each with all of its scores.
#pragma once
#include "attention-tiles.h"

template <int D, int KEYS, int ROW_WARPS>
struct AttentionShared {
  uint4 q[rowsSize<D, 16 * ROW_WARPS>];
  uint4 k[rowsSize<D, KEYS>];
  uint4 v[pairsSize<D, KEYS>];
};

/** Scores of 16 queries at `position` + row and keys from `key0` on, in units of log2, hidden ones kHidden. */
template <int BLOCKS, class Arguments>
FN void finishScores(float (&scores)[BLOCKS][4], const Arguments& a, int position, int key0) {
  const int lane = threadIdx.x & 31, t = lane & 3;
  if (a.softcap > 0) {
    // tanh x = 1 - 2 / (exp 2x + 1), whose error is small beside the cap.
    const float inside = 2 * kLog2E * a.scale / a.softcap, outside = a.softcap * kLog2E;
    UNROLL
    for (int j = 0; j < BLOCKS; j++) {
      UNROLL
      for (int e = 0; e < 4; e++) {
        scores[j][e] = outside - 2 * outside * quickReciprocal(quickExp2(scores[j][e] * inside) + 1);
      }
    }
  } else {
    const float unit = a.scale * kLog2E;
    UNROLL
    for (int j = 0; j < BLOCKS; j++) {
      UNROLL
      for (int e = 0; e < 4; e++) scores[j][e] *= unit;
    }
  }
  const int window = (int)a.window;
  if (key0 + 8 * BLOCKS - 1 <= position && (window == 0 || key0 > position + 15 - window)) return;
  const int mine = position + (lane >> 2);
  UNROLL
  for (int j = 0; j < BLOCKS; j++) {
    UNROLL
    for (int e = 0; e < 4; e++) {
      if (!sees(mine + 8 * (e >> 1), key0 + 8 * j + 2 * t + (e & 1), window)) scores[j][e] = kHidden;
    }
  }
}

template <int D, int KEYS, int ROW_WARPS, int COLUMN_WARPS, class Arguments>
FN void attentionTile(const Arguments& a) {
  using Tiles = AttentionShared<D, KEYS, ROW_WARPS>;
  DYNAMIC_SHARED(Tiles, s);
  constexpr int threads = 32 * ROW_WARPS * COLUMN_WARPS, queries = 16 * ROW_WARPS, columns = D / COLUMN_WARPS;
  constexpr int blocks = KEYS / 8;
  const Segment segment = segmentAt(a.table, blockIdx.x / a.tiles);
  // Later queries see more keys and begin first.
  const int query0 = (int)(a.tiles - 1 - blockIdx.x % a.tiles) * queries, head = blockIdx.y;
  if (query0 >= segment.qLength) return;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int row = warp % ROW_WARPS * 16, column = warp / ROW_WARPS * columns, width = (int)a.width;
  const u32 kvHead = head * a.kvHeads / a.heads;
  const int position = segment.before + query0 + row;  // of the warp's first query
  const int endKey = segment.before + smaller(segment.qLength, query0 + queries);

  loadRows<D, queries, threads>(
      s.q, sourceOf(a.q, a.heads, head, a.width, segment.qStart + query0, segment.qLength - query0));
  float sums[columns / 8][4] = {};
  float largest[2] = {kHidden, kHidden}, total[2] = {0, 0};
  ROLLED
  for (int key0 = firstKeyOf(segment.before + query0, (int)a.window) / KEYS * KEYS; key0 < endKey; key0 += KEYS) {
    const int start = keyRowOf(segment, key0, a.blocks, a.blockTokens), count = segment.kLength - key0;
    __syncthreads();
    loadRows<D, KEYS, threads>(s.k, sourceOf(a.k, a.kvHeads, kvHead, a.width, start, count));
    loadPairs<D, KEYS, threads>(s.v, sourceOf(a.v, a.kvHeads, kvHead, a.width, start, count));
    __syncthreads();
    float scores[blocks][4] = {};
    multiplyRows<D>(scores, s.q, row, s.k, width);
    finishScores(scores, a, position, key0);
    float top[2] = {largest[0], largest[1]};
    UNROLL
    for (int j = 0; j < blocks; j++) {
      UNROLL
      for (int e = 0; e < 4; e++) top[e >> 1] = fmaxf(top[e >> 1], scores[j][e]);
    }
    UNROLL
    for (int r = 0; r < 2; r++) {
      top[r] = fmaxf(top[r], laneXor(top[r], 1));
      top[r] = fmaxf(top[r], laneXor(top[r], 2));
      const float keep = quickExp2(largest[r] - top[r]);
      largest[r] = top[r];
      total[r] *= keep;
      UNROLL
      for (int j = 0; j < columns / 8; j++) {
        sums[j][2 * r] *= keep;
        sums[j][2 * r + 1] *= keep;
      }
    }
    UNROLL
    for (int j = 0; j < blocks; j++) {
      UNROLL
      for (int e = 0; e < 4; e++) {
        const float weight = scores[j][e] == kHidden ? 0.0f : quickExp2(scores[j][e] - top[e >> 1]);
        scores[j][e] = weight;
        total[e >> 1] += weight;
      }
    }
    u32 weights[blocks / 2][4];
    toLeft(scores, weights);
    multiplyPairs<D, blocks / 2, columns>(sums, weights, s.v, column, width);
  }
  UNROLL
  for (int r = 0; r < 2; r++) {
    total[r] += laneXor(total[r], 1);
    total[r] += laneXor(total[r], 2);
    const int query = query0 + row + g + 8 * r;
    if (query >= segment.qLength) continue;
    float keep = 1;
    if (a.sinks) {
      const float sink = a.sinks[head] * kLog2E, top = fmaxf(largest[r], sink);
      keep = quickExp2(largest[r] - top);
      total[r] = total[r] * keep + quickExp2(sink - top);
      largest[r] = top;
    }
    const u64 to = (u64)(segment.qStart + query) * a.heads + head;
    if (t == 0 && column == 0) a.lse[to] = (largest[r] + log2f(total[r])) * kLn2;
    storeRow<columns>(sums, r == 0, keep / total[r], a.out + to * a.width, column, width);
  }
}

static_assert(sizeof(AttentionShared<64, 64, 4>) == 25600 && sizeof(AttentionShared<128, 64, 4>) == 50176);
static_assert(sizeof(AttentionShared<256, 32, 4>) == 66048 && sizeof(AttentionShared<512, 16, 2>) == 65792);
