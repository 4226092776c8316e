// The order of attention's forward work, the same in every arithmetic of its products: tiles of rows, the longest
// first; a few rows over many keys are split by keys into parts, which are then merged, so that every thread has
// work. Not here: what is done to one tile (attention.cc, ../bf16/attention.cc), the tile's layout (attention-tile.h).
#pragma once
#include <cmath>
#include <cstdlib>

#include "../simd-math.h"
#include "../threads.h"
#include "attention-tile.h"
#include "lanes.h"
#include "workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** Fewer tiles than this are split by keys, into parts of this many keys. Independent of the thread count. */
constexpr int64_t kEnoughTiles = 32;
constexpr int64_t kPartKeys = 512;
/** Tiles of few rows are worked on in another way (attention-thin.h), in parts of so many keys. */
constexpr int64_t kThinRows = 8, kThinPartKeys = 64;

/** What a tile leaves behind: out [D][64], not yet divided by total; largest is in units of log2. */
struct TileSums {
  float *out, *largest, *total, *factor;
  static int64_t size(int64_t headDim) { return (headDim + 3) * kTileRows; }
  TileSums(float* memory, int64_t headDim) {
    out = memory;
    largest = out + headDim * kTileRows;
    total = largest + kTileRows;
    factor = total + kTileRows;
  }
};

inline void finishTile(const AttentionArgs& a, const TileRows& t, const TileSums& s) {
  for (int r = 0; r < t.rows; r++) {
    s.factor[r] = 1.0f / s.total[r];
    a.lse[t.scalar[r]] = s.largest[r] * (1.0f / kLog2E) + logf(s.total[r]);
  }
  for (int r = t.rows; r < kTileRows; r++) s.factor[r] = 0;
  lanesToRows(t, s.out, a.headDim, s.factor, a.out);
}

/** Adds partial results, `partSize` floats apart, into the first of them, in order. */
inline void mergeParts(int64_t parts, int64_t partSize, int64_t headDim, int vectors, float* memory) {
  const TileSums into(memory, headDim);
  for (int64_t part = 1; part < parts; part++) {
    const TileSums from(memory + part * partSize, headDim);
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

inline int compareWork(const void* left, const void* right) {
  const auto* l = static_cast<const RowTile*>(left);
  const auto* r = static_cast<const RowTile*>(right);
  const int64_t difference = (r->keysEnd - r->keysBegin) * r->rows - (l->keysEnd - l->keysBegin) * l->rows;
  return difference < 0 ? -1 : difference > 0 ? 1 : 0;
}

inline int64_t countTiles(const AttentionArgs& a) {
  int64_t tiles = 0;
  for (int64_t s = 0; s < a.segmentCount; s++) {
    tiles += divideUp(a.segments[s].qLength * groupSize(a), kTileRows) * a.kvHeads;
  }
  return tiles;
}

template <class Visit>
void eachTile(const AttentionArgs& a, int64_t keyUnit, const Visit& visit) {
  for (int64_t s = 0; s < a.segmentCount; s++) {
    const int64_t rows = a.segments[s].qLength * groupSize(a);
    for (int64_t g = 0; g < a.kvHeads; g++) {
      for (int64_t row = 0; row < rows; row += kTileRows) visit(makeTile(a, s, g, row, keyUnit));
    }
  }
}

template <class Tiles>
void attentionByTiles(const AttentionArgs& a, const Tiles& work, int64_t tileCount) {
  Workspace<RowTile> tiles(tileCount);
  int64_t filled = 0;
  eachTile(a, Tiles::kKeyUnit, [&](const RowTile& tile) { tiles[filled++] = tile; });
  qsort(tiles.get(), static_cast<size_t>(filled), sizeof(RowTile), compareWork);  // longest first
  const int64_t sums = TileSums::size(a.headDim), size = sums + Tiles::scratchSize(a.headDim);
  Workspace<float> memory(size * threadCount());
  parallelTasks(filled, [&](int64_t task, int thread) {
    float* own = memory.get() + thread * size;
    const TileSums result(own, a.headDim);
    TileRows rows;
    locateRows(a, tiles[task], rows);
    work.run(tiles[task], rows, result, own + sums);
    finishTile(a, rows, result);
  });
}

template <class Tiles>
void attentionByParts(const AttentionArgs& a, const Tiles& work, int64_t tileCount) {
  int64_t partCount = 0;
  eachTile(a, Tiles::kKeyUnit, [&](const RowTile& tile) {
    partCount += larger(1, divideUp(tile.keysEnd - tile.keysBegin, kPartKeys));
  });
  Workspace<RowTile> parts(partCount);
  Workspace<int64_t> firstPart(tileCount + 1);
  int64_t filled = 0, tileIndex = 0;
  eachTile(a, Tiles::kKeyUnit, [&](const RowTile& tile) {
    firstPart[tileIndex++] = filled;
    RowTile part = tile;
    do {
      part.keysEnd = smaller(tile.keysEnd, part.keysBegin + kPartKeys);
      parts[filled++] = part;
      part.keysBegin = part.keysEnd;
    } while (part.keysEnd < tile.keysEnd);
  });
  firstPart[tileIndex] = filled;
  const int64_t sums = TileSums::size(a.headDim), size = sums + Tiles::scratchSize(a.headDim);
  Workspace<float> memory(size * filled);
  parallelTasks(filled, [&](int64_t task, int) {
    float* own = memory.get() + task * size;
    TileRows rows;
    locateRows(a, parts[task], rows);
    work.run(parts[task], rows, TileSums(own, a.headDim), own + sums);
  });
  parallelTasks(tileIndex, [&](int64_t tile, int) {
    const int64_t first = firstPart[tile];
    TileRows rows;
    locateRows(a, parts[first], rows);
    mergeParts(firstPart[tile + 1] - first, size, a.headDim, rows.vectors, memory.get() + first * size);
    finishTile(a, rows, TileSums(memory.get() + first * size, a.headDim));
  });
}

/**
 * Attention by `work`, a class with
 *   kKeyUnit                                          tiles begin and end at multiples of this many keys
 *   scratchSize(headDim)                              floats of working memory, 64-byte aligned
 *   run(tile, rows, sums, scratch)                    leaves the sums of the tile's rows over its keys
 */
template <class Tiles>
void attentionOver(const AttentionArgs& a, const Tiles& work) {
  const int64_t tiles = countTiles(a);
  if (tiles == 0) return;
  if (tiles < kEnoughTiles) {
    attentionByParts(a, work, tiles);
  } else {
    attentionByTiles(a, work, tiles);
  }
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
