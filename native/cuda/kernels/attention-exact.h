// Attention's forward pass in f32, for attention.cu: for precision fp32 and for widths that tensor cores' tiles do not take. A block holds
// 64 queries of one head and at most 64 CHUNKS columns of their sums; wider heads are several blocks, each with all of
// the scores. Not here: few queries (attention-decode.cu), bf16 (attention-matrix.h).
#pragma once
#include "attention-exact-tiles.h"

template <int CHUNKS, class Arguments>
FN void exactTile(const Arguments& a) {
  DYNAMIC_SHARED(ExactTiles, s);
  const Segment segment = segmentAt(a.table, blockIdx.x / a.tiles);
  const int query0 = (int)(a.tiles - 1 - blockIdx.x % a.tiles) * kTile;
  if (query0 >= segment.qLength) return;
  const int head = blockIdx.y % a.heads, column = (int)(blockIdx.y / a.heads) * kTile * CHUNKS;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16, window = (int)a.window;
  const u32 kvHead = head * a.kvHeads / a.heads;
  const int position = segment.before + query0;
  const int endKey = segment.before + smaller(segment.qLength, query0 + kTile);
  const ExactSource q =
      exactSourceOf(a.q, a.heads, head, a.width, segment.qStart + query0, segment.qLength - query0);
  float sums[CHUNKS][4][4] = {};
  float most[4], total[4] = {};
  UNROLL
  for (int i = 0; i < 4; i++) most[i] = kHidden;
  ROLLED
  for (int key0 = firstKeyOf(position, window) / kTile * kTile; key0 < endKey; key0 += kTile) {
    const int start = keyRowOf(segment, key0, a.blocks, a.blockTokens), count = segment.kLength - key0;
    float scores[4][4];
    multiplyExact(scores, q, exactSourceOf(a.k, a.kvHeads, kvHead, a.width, start, count), s);
    UNROLL
    for (int i = 0; i < 4; i++) {
      float top = most[i];
      UNROLL
      for (int j = 0; j < 4; j++) {
        float score = scores[i][j] * a.scale;
        if (a.softcap > 0) score = a.softcap * tanhf(score / a.softcap);
        scores[i][j] = sees(position + y + 16 * i, key0 + x + 16 * j, window) ? score : kHidden;
        top = fmaxf(top, scores[i][j]);
      }
      UNROLL
      for (int d = 1; d < 16; d *= 2) top = fmaxf(top, laneXor(top, d));
      const float keep = expf(most[i] - top);
      most[i] = top;
      total[i] *= keep;
      UNROLL
      for (int j = 0; j < 4; j++) {
        scores[i][j] = scores[i][j] == kHidden ? 0.0f : expf(scores[i][j] - top);
        total[i] += scores[i][j];
      }
      UNROLL
      for (int c = 0; c < CHUNKS; c++) {
        UNROLL
        for (int e = 0; e < 4; e++) sums[c][i][e] *= keep;
      }
    }
    storeWeights(scores, s);
    addProducts(sums, exactSourceOf(a.v, a.kvHeads, kvHead, a.width, start, count), column, s);
  }
  UNROLL
  for (int i = 0; i < 4; i++) {
    UNROLL
    for (int d = 1; d < 16; d *= 2) total[i] += laneXor(total[i], d);
    const int query = query0 + y + 16 * i;
    if (query >= segment.qLength) continue;
    float keep = 1;
    if (a.sinks) {
      const float sink = a.sinks[head], top = fmaxf(most[i], sink);
      keep = expf(most[i] - top);
      total[i] = total[i] * keep + expf(sink - top);
      most[i] = top;
    }
    const u64 to = (u64)(segment.qStart + query) * a.heads + head;
    if (x == 0 && column == 0) a.lse[to] = most[i] + logf(total[i]);
    storeExact(sums, i, keep / total[i], a.out + to * a.width, column, (int)a.width);
  }
}
