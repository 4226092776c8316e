// Causal attention with grouped heads, sliding windows and packed segments, without a T x T matrix: tiles of rows
// walk over blocks of keys with a running maximum and sum (Milakov & Gimelshein 2018; Dao et al. 2022). Serves
// training, prefill and decoding alike; a few rows over many keys are split by keys so that every thread has work.
// Not here: the backward pass (attention-backward.cc), the tile's layout (attention-tile.h).
#include <cfloat>
#include <cmath>
#include <cstdlib>

#include "../simd-math.h"
#include "../threads.h"
#include "attention-tile.h"
#include "declarations.h"
#include "tile-product.h"
#include "workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** Fewer tiles than this are split by keys, into parts of this many keys. Independent of the thread count. */
constexpr int64_t kEnoughTiles = 32;
constexpr int64_t kPartKeys = 512;

/** One thread's working memory: floats at 64-byte boundaries. Scores are in units of log2. */
struct ForwardScratch {
  float *q, *out, *scores, *largest, *total, *factor, *packed;
  static int64_t size(int64_t headDim) { return (2 * headDim + kTileKeys + 3) * kTileRows + headDim * kTileKeys; }
  ForwardScratch(float* memory, int64_t headDim) {
    q = memory;
    out = q + headDim * kTileRows;
    scores = out + headDim * kTileRows;
    largest = scores + kTileKeys * kTileRows;
    total = largest + kTileRows;
    factor = total + kTileRows;
    packed = factor + kTileRows;
  }
};

/** Scores become exp2(score - largest); largest and total move on, and factor is what older sums shrink by. */
void onlineSoftmax(int vectors, int64_t keys, const ForwardScratch& s) {
  for (int v = 0; v < vectors; v++) {
    const int lane = v * kLanes;
    float* column = s.scores + lane;
    const Vec before = load(s.largest + lane);
    Vec best = before, other = before;
    int64_t j = 0;
    for (; j + 2 <= keys; j += 2) {
      best = maximum(load(column + j * kTileRows), best);
      other = maximum(load(column + (j + 1) * kTileRows), other);
    }
    if (j < keys) best = maximum(load(column + j * kTileRows), best);
    best = maximum(other, best);
    const Vec factor = exponentialBase2(before - best);
    Vec total = load(s.total + lane) * factor;
    for (j = 0; j < keys; j++) {
      const Vec p = exponentialBase2(load(column + j * kTileRows) - best);
      store(column + j * kTileRows, p);
      total += p;
    }
    store(s.largest + lane, best);
    store(s.total + lane, total);
    store(s.factor + lane, factor);
  }
}

/** Leaves the unnormalised out [D][64], largest and total of the tile's rows over its keys in the scratch. */
void runTile(const AttentionArgs& a, const RowTile& tile, const TileRows& t, const ForwardScratch& s) {
  const int64_t d = a.headDim;
  rowsToLanes(t, a.q, d, a.scale * kLog2E, s.q);
  for (int r = 0; r < kTileRows; r++) {
    s.largest[r] = -FLT_MAX;
    s.total[r] = 0;
  }
  if (tile.keysBegin >= tile.keysEnd) std::memset(s.out, 0, sizeof(float) * d * kTileRows);
  for (int64_t key = tile.keysBegin; key < tile.keysEnd; key += kTileKeys) {
    const int64_t keys = smaller(kTileKeys, tile.keysEnd - key);
    const KeyRows k = keyRows(a, tile, a.k, key, keys, s.packed);
    tileProduct<Order::DepthContiguous>({keys, t.vectors, d, k.data, k.stride, s.q, kTileRows, s.scores, kTileRows,
                                         Start::Zero, nullptr});
    if (needsMask(a, t, key, keys)) maskScores(a, t, key, keys, -FLT_MAX, s.scores);
    onlineSoftmax(t.vectors, keys, s);
    const KeyRows v = keyRows(a, tile, a.v, key, keys, s.packed);
    tileProduct<Order::RowContiguous>({d, t.vectors, keys, v.data, v.stride, s.scores, kTileRows, s.out, kTileRows,
                                       key == tile.keysBegin ? Start::Zero : Start::Scale, s.factor});
  }
}

void finishTile(const AttentionArgs& a, const TileRows& t, const ForwardScratch& s) {
  for (int r = 0; r < t.rows; r++) {
    s.factor[r] = 1.0f / s.total[r];
    a.lse[t.scalar[r]] = s.largest[r] * (1.0f / kLog2E) + logf(s.total[r]);
  }
  for (int r = t.rows; r < kTileRows; r++) s.factor[r] = 0;
  lanesToRows(t, s.out, a.headDim, s.factor, a.out);
}

/** Adds partial results (each laid out as scratch) into the first of them, in order. */
void mergeParts(int64_t parts, int64_t partSize, int64_t headDim, int vectors, float* memory) {
  const ForwardScratch into(memory, headDim);
  for (int64_t part = 1; part < parts; part++) {
    const ForwardScratch from(memory + part * partSize, headDim);
    for (int lane = 0; lane < vectors * kLanes; lane += kLanes) {
      const Vec mine = load(into.largest + lane), theirs = load(from.largest + lane);
      const Vec best = maximum(mine, theirs);
      const Vec keep = exponentialBase2(mine - best), take = exponentialBase2(theirs - best);
      store(into.largest + lane, best);
      store(into.total + lane, load(into.total + lane) * keep + load(from.total + lane) * take);
      for (int64_t d = 0; d < headDim; d++) {
        float* at = into.out + d * kTileRows + lane;
        store(at, load(at) * keep + load(from.out + d * kTileRows + lane) * take);
      }
    }
  }
}

int compareWork(const void* left, const void* right) {
  const auto* l = static_cast<const RowTile*>(left);
  const auto* r = static_cast<const RowTile*>(right);
  const int64_t difference = (r->keysEnd - r->keysBegin) * r->rows - (l->keysEnd - l->keysBegin) * l->rows;
  return difference < 0 ? -1 : difference > 0 ? 1 : 0;
}

int64_t countTiles(const AttentionArgs& a) {
  int64_t tiles = 0;
  for (int64_t s = 0; s < a.segmentCount; s++) {
    tiles += divideUp(a.segments[s].qLength * groupSize(a), kTileRows) * a.kvHeads;
  }
  return tiles;
}

template <class Visit>
void eachTile(const AttentionArgs& a, const Visit& visit) {
  for (int64_t s = 0; s < a.segmentCount; s++) {
    const int64_t rows = a.segments[s].qLength * groupSize(a);
    for (int64_t g = 0; g < a.kvHeads; g++) {
      for (int64_t row = 0; row < rows; row += kTileRows) visit(makeTile(a, s, g, row));
    }
  }
}

void attentionByTiles(const AttentionArgs& a, int64_t tileCount) {
  Workspace<RowTile> tiles(tileCount);
  int64_t filled = 0;
  eachTile(a, [&](const RowTile& tile) { tiles[filled++] = tile; });
  qsort(tiles.get(), static_cast<size_t>(filled), sizeof(RowTile), compareWork);  // longest first
  const int64_t size = ForwardScratch::size(a.headDim);
  Workspace<float> memory(size * threadCount());
  parallelTasks(filled, [&](int64_t task, int thread) {
    const ForwardScratch scratch(memory.get() + thread * size, a.headDim);
    TileRows rows;
    locateRows(a, tiles[task], rows);
    runTile(a, tiles[task], rows, scratch);
    finishTile(a, rows, scratch);
  });
}

void attentionByParts(const AttentionArgs& a, int64_t tileCount) {
  int64_t partCount = 0;
  eachTile(a, [&](const RowTile& tile) { partCount += larger(1, divideUp(tile.keysEnd - tile.keysBegin, kPartKeys)); });
  Workspace<RowTile> parts(partCount);
  Workspace<int64_t> firstPart(tileCount + 1);
  int64_t filled = 0, tileIndex = 0;
  eachTile(a, [&](const RowTile& tile) {
    firstPart[tileIndex++] = filled;
    RowTile part = tile;
    do {
      part.keysEnd = smaller(tile.keysEnd, part.keysBegin + kPartKeys);
      parts[filled++] = part;
      part.keysBegin = part.keysEnd;
    } while (part.keysEnd < tile.keysEnd);
  });
  firstPart[tileIndex] = filled;
  const int64_t size = ForwardScratch::size(a.headDim);
  Workspace<float> memory(size * filled);
  parallelTasks(filled, [&](int64_t task, int) {
    TileRows rows;
    locateRows(a, parts[task], rows);
    runTile(a, parts[task], rows, ForwardScratch(memory.get() + task * size, a.headDim));
  });
  parallelTasks(tileIndex, [&](int64_t tile, int) {
    const int64_t first = firstPart[tile];
    TileRows rows;
    locateRows(a, parts[first], rows);
    mergeParts(firstPart[tile + 1] - first, size, a.headDim, rows.vectors, memory.get() + first * size);
    finishTile(a, rows, ForwardScratch(memory.get() + first * size, a.headDim));
  });
}

}  // namespace

void attention(const AttentionArgs& a) {
  const int64_t tiles = countTiles(a);
  if (tiles == 0) return;
  if (tiles < kEnoughTiles) {
    attentionByParts(a, tiles);
  } else {
    attentionByTiles(a, tiles);
  }
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
