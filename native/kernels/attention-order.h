// The order of attention's forward work, the same in every arithmetic of its products: tiles of rows, the longest
// first; a segment of few rows over many keys is split by keys into parts, which are then merged, so that every thread
// has work. Each segment is judged alone, by its shape: its results have the same bits in any company. Not here: what is done to one tile (attention.cc, ../bf16/attention.cc), the tile's layout (attention-tile.h).
#pragma once
#include <cmath>
#include <cstdlib>

#include "../simd-math.h"
#include "../threads.h"
#include "attention-cap.h"
#include "attention-tile.h"
#include "lanes.h"
#include "workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** The tiles of a segment that has fewer than this are split by keys, into parts of this many keys. */
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
    const int64_t head = t.scalar[r] % a.heads;
    const float shrink = a.sinks ? withSink(a.sinks[head], s.largest[r], s.total[r]) : 1.0f;
    s.factor[r] = shrink / s.total[r];
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

/** A tile, or a part of one by keys. */
struct TileWork {
  RowTile keys;
  int64_t part;  // where its sums are kept until they are merged; -1: a whole tile
};

/** The longest first. */
inline int compareWork(const void* left, const void* right) {
  const RowTile& l = static_cast<const TileWork*>(left)->keys;
  const RowTile& r = static_cast<const TileWork*>(right)->keys;
  const int64_t difference = (r.keysEnd - r.keysBegin) * r.rows - (l.keysEnd - l.keysBegin) * l.rows;
  return difference < 0 ? -1 : difference > 0 ? 1 : 0;
}

/** Calls visit(tile, parts) for every tile and the number of parts that it is split into. */
template <class Visit>
void eachTile(const AttentionArgs& a, int64_t keyUnit, const Visit& visit) {
  for (int64_t s = 0; s < a.segmentCount; s++) {
    const int64_t rows = a.segments[s].qLength * groupSize(a);
    const bool split = divideUp(rows, kTileRows) * a.kvHeads < kEnoughTiles;
    for (int64_t g = 0; g < a.kvHeads; g++) {
      for (int64_t row = 0; row < rows; row += kTileRows) {
        const RowTile tile = makeTile(a, s, g, row, keyUnit);
        visit(tile, split ? larger(1, divideUp(tile.keysEnd - tile.keysBegin, kPartKeys)) : 1);
      }
    }
  }
}

/**
 * Attention by `work`, a class with
 *   kKeyUnit                                          tiles begin and end at multiples of this many keys
 *   scratchSize(headDim)                              floats of working memory, 64-byte aligned
 *   run(tile, rows, sums, scratch)                    leaves the sums of the tile's rows over its keys
 */
template <class Tiles>
void attentionOver(const AttentionArgs& a, const Tiles& work) {
  int64_t workCount = 0, partCount = 0, splitCount = 0;
  eachTile(a, Tiles::kKeyUnit, [&](const RowTile&, int64_t parts) {
    workCount += parts;
    if (parts > 1) partCount += parts, splitCount++;
  });
  if (workCount == 0) return;
  struct SplitTile {
    RowTile keys;
    int64_t first, parts;
  };
  Workspace<TileWork> tiles(workCount);
  Workspace<SplitTile> splits(larger(1, splitCount));
  int64_t filled = 0, part = 0, split = 0;
  eachTile(a, Tiles::kKeyUnit, [&](const RowTile& tile, int64_t parts) {
    if (parts == 1) {
      tiles[filled++] = {tile, -1};
      return;
    }
    splits[split++] = {tile, part, parts};
    RowTile keys = tile;
    for (int64_t p = 0; p < parts; p++) {
      keys.keysBegin = tile.keysBegin + p * kPartKeys;
      keys.keysEnd = smaller(tile.keysEnd, keys.keysBegin + kPartKeys);
      tiles[filled++] = {keys, part++};
    }
  });
  qsort(tiles.get(), static_cast<size_t>(filled), sizeof(TileWork), compareWork);
  const int64_t sums = TileSums::size(a.headDim), size = sums + Tiles::scratchSize(a.headDim);
  Workspace<float> memory(size * threadCount()), kept(larger(1, partCount * sums));
  parallelTasks(filled, [&](int64_t task, int thread) {
    const TileWork& here = tiles[task];
    float* own = memory.get() + thread * size;
    const TileSums result(here.part < 0 ? own : kept.get() + here.part * sums, a.headDim);
    TileRows rows;
    locateRows(a, here.keys, rows);
    work.run(here.keys, rows, result, own + sums);
    if (here.part < 0) finishTile(a, rows, result);
  });
  parallelTasks(splitCount, [&](int64_t index, int) {
    const SplitTile& tile = splits[index];
    float* first = kept.get() + tile.first * sums;
    TileRows rows;
    locateRows(a, tile.keys, rows);
    mergeParts(tile.parts, sums, a.headDim, rows.vectors, first);
    finishTile(a, rows, TileSums(first, a.headDim));
  });
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
