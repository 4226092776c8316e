// The order of attention's backward work, the same in every arithmetic of its products: the row tiles of one
// key/value head are cut into a few chunks by shape alone; a chunk walks its tiles and keeps its own dk and dv, which
// are then added in order: no atomics, and the same result on any number of threads.
// Not here: what is done to one tile (attention-backward.cc, ../bf16/attention-backward.cc).
#pragma once
#include "../threads.h"
#include "attention-cap.h"
#include "attention-tile.h"
#include "lanes.h"
#include "workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** Chunks aimed at in all, and the fewest tiles that are worth a chunk's own dk and dv. */
constexpr int64_t kChunksWanted = 32;
constexpr int64_t kLeastTiles = 4;

struct Chunk {
  int64_t segment, kvHead, firstTile, tiles;
  int64_t keysBegin, keysEnd;  // within the segment
  int64_t sums;                // offset of its dk [keys][width], followed by dv
};

/** Floats between the keys' sums: whole vectors. */
LOWRANK_INLINE int64_t sumsWidth(int64_t headDim) { return roundUp(headDim, kLanes); }

/** delta[r] = sum over D of asUsed(dOut) * out: what the softmax takes off every dP of row r. */
template <class AsUsed>
void rowDeltas(const AttentionBackwardArgs& a, const TileRows& t, const AsUsed& asUsed, float* delta) {
  for (int r = 0; r < t.rows; r++) {
    Vec total = {};
    eachVector(0, a.f.headDim, [&](int64_t d, const auto& memory) {
      const Vec dOut = asUsed(memory.load(a.dOut + t.offset[r] + d));
      total = multiplyAdd(dOut, memory.load(a.f.out + t.offset[r] + d), total);
    });
    delta[r] = sumLanes(total);
  }
}

inline int64_t chunksOf(const AttentionArgs& a, int64_t tiles) {
  const int64_t wanted = divideUp(kChunksWanted, larger(1, a.segmentCount * a.kvHeads));
  return larger(1, smaller(wanted, tiles / kLeastTiles));
}

/** Visits the chunks in order: all of a key/value head's one after the other. */
template <class Visit>
void eachChunk(const AttentionArgs& a, const Visit& visit) {
  for (int64_t s = 0; s < a.segmentCount; s++) {
    const int64_t tiles = divideUp(a.segments[s].qLength * groupSize(a), kTileRows);
    if (tiles == 0) continue;
    const int64_t chunks = chunksOf(a, tiles);
    for (int64_t g = 0; g < a.kvHeads; g++) {
      for (int64_t c = 0; c < chunks; c++) visit(s, g, tiles * c / chunks, tiles * (c + 1) / chunks);
    }
  }
}

/** dk (times dkFactor) and dv of 64 keys of one head: the chunks' own sums, added in order. */
inline void addChunks(const AttentionBackwardArgs& b, const Chunk* chunks, int64_t count, float dkFactor,
                      const float* sums, int64_t firstKey) {
  const AttentionArgs& a = b.f;
  const int64_t width = sumsWidth(a.headDim);
  const Segment& segment = a.segments[chunks[0].segment];
  const int64_t endKey = smaller(segment.kLength, firstKey + kTileKeys);
  for (int64_t key = firstKey; key < endKey; key++) {
    const int64_t at = ((segment.kStart + key) * a.kvHeads + chunks[0].kvHead) * a.headDim;
    eachVector(0, a.headDim, [&](int64_t d, const auto& memory) {
      Vec dk = {}, dv = {};
      for (int64_t c = 0; c < count; c++) {
        const Chunk& chunk = chunks[c];
        if (key < chunk.keysBegin || key >= chunk.keysEnd) continue;
        const float* from = sums + chunk.sums + (key - chunk.keysBegin) * width + d;
        dk += load(from);
        dv += load(from + (chunk.keysEnd - chunk.keysBegin) * width);
      }
      memory.store(b.dk + at + d, dk * dkFactor);
      memory.store(b.dv + at + d, dv);
    });
  }
}

/**
 * dq, dk and dv of every segment by `work`, a class with
 *   kKeyUnit                              tiles begin and end at multiples of this many keys
 *   scratchSize(headDim)                  floats of working memory, 64-byte aligned
 *   dkFactor()                            what the tiles' dk is still to be multiplied by
 *   run(tile, dk, dv, fresh, scratch)     writes the rows' dq; adds to dk and dv [keys of the tile][sumsWidth], or
 *                                         writes them where they are `fresh`
 */
template <class Tiles>
void attentionBackwardOver(const AttentionBackwardArgs& b, const Tiles& work) {
  const AttentionArgs& a = b.f;
  const int64_t width = sumsWidth(a.headDim);
  int64_t count = 0;
  eachChunk(a, [&](int64_t, int64_t, int64_t, int64_t) { count++; });
  if (count == 0) return;

  Workspace<Chunk> chunks(count);
  Workspace<int64_t> heads(count + 1);  // index of the first chunk of each key/value head
  int64_t filled = 0, headCount = 0, sumsSize = 0;
  eachChunk(a, [&](int64_t segment, int64_t kvHead, int64_t firstTile, int64_t endTile) {
    if (firstTile == 0) heads[headCount++] = filled;
    const RowTile first = makeTile(a, segment, kvHead, firstTile * kTileRows, Tiles::kKeyUnit);
    const RowTile last = makeTile(a, segment, kvHead, (endTile - 1) * kTileRows, Tiles::kKeyUnit);
    const int64_t keys = last.keysEnd - first.keysBegin;
    chunks[filled++] = {segment, kvHead, firstTile, endTile - firstTile, first.keysBegin, last.keysEnd, sumsSize};
    sumsSize += 2 * keys * width;
  });
  heads[headCount] = filled;

  Workspace<float> sums(sumsSize);
  const int64_t size = Tiles::scratchSize(a.headDim);
  Workspace<float> memory(size * threadCount());
  // Last chunks first: they see the most keys.
  parallelTasks(count, [&](int64_t task, int thread) {
    const Chunk& chunk = chunks[count - 1 - task];
    const int64_t length = (chunk.keysEnd - chunk.keysBegin) * width;
    float* dk = sums.get() + chunk.sums;
    // The last tile first: it sees all of the chunk's keys but those before its window.
    for (int64_t i = chunk.tiles - 1; i >= 0; i--) {
      const RowTile tile =
          makeTile(a, chunk.segment, chunk.kvHead, (chunk.firstTile + i) * kTileRows, Tiles::kKeyUnit);
      const int64_t skipped = (tile.keysBegin - chunk.keysBegin) * width;
      const bool fresh = i == chunk.tiles - 1;
      if (fresh) {
        std::memset(dk, 0, static_cast<size_t>(skipped) * sizeof(float));
        std::memset(dk + length, 0, static_cast<size_t>(skipped) * sizeof(float));
      }
      work.run(tile, dk + skipped, dk + length + skipped, fresh, memory.get() + thread * size);
    }
  });
  parallelTasks(headCount, [&](int64_t head, int) {
    const Chunk* first = chunks.get() + heads[head];
    const int64_t keys = a.segments[first->segment].kLength;
    for (int64_t key = 0; key < keys; key += kTileKeys) {
      addChunks(b, first, heads[head + 1] - heads[head], work.dkFactor(), sums.get(), key);
    }
  });
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
