// Gradients of attention. Probabilities are computed again from the log-sums of the forward pass (Dao et al. 2022).
// The row tiles of one key/value head are cut into a few chunks by shape alone; a chunk walks its tiles and keeps its
// own dk and dv, which are then added in order: no atomics, and the same result on any number of threads.
// Not here: the forward pass (attention.cc), the tile's layout (attention-tile.h).
#include "../simd-math.h"
#include "../threads.h"
#include "attention-tile.h"
#include "declarations.h"
#include "tile-product.h"
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

/** One thread's working memory: lanes [.][64] and rows [64][width]. */
struct BackwardScratch {
  float *q, *dOut, *dq, *probability, *dScore, *qRows, *dOutRows, *delta, *lse, *ones, *packedK, *packedV;
  static int64_t size(int64_t headDim, int64_t width) {
    return (3 * headDim + 2 * kTileKeys + 2 * width + 3) * kTileRows + 2 * headDim * kTileKeys;
  }
  BackwardScratch(float* memory, int64_t headDim, int64_t width) {
    q = memory;
    dOut = q + headDim * kTileRows;
    dq = dOut + headDim * kTileRows;
    probability = dq + headDim * kTileRows;
    dScore = probability + kTileKeys * kTileRows;
    qRows = dScore + kTileKeys * kTileRows;
    dOutRows = qRows + width * kTileRows;
    delta = dOutRows + width * kTileRows;
    lse = delta + kTileRows;
    ones = lse + kTileRows;
    packedK = ones + kTileRows;
    packedV = packedK + headDim * kTileKeys;
  }
};

/** Copies the tile's rows of x to [64][width], zero past headDim. */
void copyRows(const TileRows& t, const float* x, int64_t headDim, int64_t width, float* rows) {
  for (int r = 0; r < t.rows; r++) {
    std::memcpy(rows + r * width, x + t.offset[r], static_cast<size_t>(headDim) * sizeof(float));
    for (int64_t d = headDim; d < width; d++) rows[r * width + d] = 0;
  }
}

/** delta[r] = sum over D of dOut * out: what the softmax takes off every dP of row r. */
void rowDeltas(const AttentionBackwardArgs& a, const TileRows& t, float* delta) {
  for (int r = 0; r < t.rows; r++) {
    Vec total = {};
    eachVector(0, a.f.headDim, [&](int64_t d, const auto& memory) {
      total = multiplyAdd(memory.load(a.dOut + t.offset[r] + d), memory.load(a.f.out + t.offset[r] + d), total);
    });
    delta[r] = sumLanes(total);
  }
}

/** Scores to probabilities and dP to dS = scale * P * (dP - delta), both [keys][64] in place. */
void softmaxBackward(int vectors, int64_t keys, float scale, const BackwardScratch& s) {
  for (int v = 0; v < vectors; v++) {
    const int lane = v * kLanes;
    const Vec lse = load(s.lse + lane), delta = load(s.delta + lane);
    for (int64_t j = 0; j < keys; j++) {
      float* p = s.probability + j * kTileRows + lane;
      float* d = s.dScore + j * kTileRows + lane;
      const Vec probability = exponentialBase2(load(p) - lse);
      store(p, probability);
      store(d, probability * (load(d) - delta) * scale);
    }
  }
}

void backwardTile(const AttentionBackwardArgs& b, const RowTile& tile, int64_t width, const BackwardScratch& s,
                  float* dk, float* dv, int64_t sumsBegin) {
  const AttentionArgs& a = b.f;
  const int64_t d = a.headDim;
  TileRows t;
  locateRows(a, tile, t);
  rowsToLanes(t, a.q, d, a.scale * kLog2E, s.q);
  rowsToLanes(t, b.dOut, d, 1.0f, s.dOut);
  copyRows(t, a.q, d, width, s.qRows);
  copyRows(t, b.dOut, d, width, s.dOutRows);
  for (int r = 0; r < kTileRows; r++) {
    s.delta[r] = 0;
    s.ones[r] = 1;
    s.lse[r] = r < t.rows ? a.lse[t.scalar[r]] * kLog2E : 0;
  }
  rowDeltas(b, t, s.delta);
  for (int64_t key = tile.keysBegin; key < tile.keysEnd; key += kTileKeys) {
    const int64_t keys = smaller(kTileKeys, tile.keysEnd - key);
    const KeyRows k = keyRows(a, tile, a.k, key, keys, s.packedK);
    const KeyRows v = keyRows(a, tile, a.v, key, keys, s.packedV);
    tileProduct<Order::DepthContiguous>({keys, t.vectors, d, k.data, k.stride, s.q, kTileRows, s.probability,
                                         kTileRows, Start::Zero, nullptr});
    tileProduct<Order::DepthContiguous>({keys, t.vectors, d, v.data, v.stride, s.dOut, kTileRows, s.dScore, kTileRows,
                                         Start::Zero, nullptr});
    if (needsMask(a, t, key, keys)) maskScores(a, t, key, keys, -__builtin_inff(), s.probability);
    softmaxBackward(t.vectors, keys, a.scale, s);
    const int64_t row = (key - sumsBegin) * width;
    tileProduct<Order::DepthContiguous>({keys, width / kLanes, t.rows, s.probability, kTileRows, s.dOutRows, width,
                                         dv + row, width, Start::Add, nullptr});
    tileProduct<Order::DepthContiguous>({keys, width / kLanes, t.rows, s.dScore, kTileRows, s.qRows, width, dk + row,
                                         width, Start::Add, nullptr});
    tileProduct<Order::RowContiguous>({d, t.vectors, keys, k.data, k.stride, s.dScore, kTileRows, s.dq, kTileRows,
                                       key == tile.keysBegin ? Start::Zero : Start::Add, nullptr});
  }
  lanesToRows(t, s.dq, d, s.ones, b.dq);
}

int64_t chunksOf(const AttentionArgs& a, int64_t tiles) {
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

/** dk and dv of 64 keys of one head: the chunks' own sums, added in order. */
void addChunks(const AttentionBackwardArgs& b, const Chunk* chunks, int64_t count, int64_t width, const float* sums,
               int64_t firstKey) {
  const AttentionArgs& a = b.f;
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
      memory.store(b.dk + at + d, dk);
      memory.store(b.dv + at + d, dv);
    });
  }
}

/** Tokens outside every segment have no gradient. */
void clearUncovered(const AttentionBackwardArgs& b) {
  const AttentionArgs& a = b.f;
  int64_t covered = 0;
  for (int64_t s = 0; s < a.segmentCount; s++) covered += a.segments[s].qLength;
  if (covered == a.tq) return;
  fill(b.dq, a.tq * a.heads * a.headDim, 0);
  fill(b.dk, a.tq * a.kvHeads * a.headDim, 0);
  fill(b.dv, a.tq * a.kvHeads * a.headDim, 0);
}

}  // namespace

void attentionBackward(const AttentionBackwardArgs& b) {
  const AttentionArgs& a = b.f;
  clearUncovered(b);
  const int64_t width = roundUp(a.headDim, kLanes);
  int64_t count = 0;
  eachChunk(a, [&](int64_t, int64_t, int64_t, int64_t) { count++; });
  if (count == 0) return;

  Workspace<Chunk> chunks(count);
  Workspace<int64_t> heads(count + 1);  // index of the first chunk of each key/value head
  int64_t filled = 0, headCount = 0, sumsSize = 0;
  eachChunk(a, [&](int64_t segment, int64_t kvHead, int64_t firstTile, int64_t endTile) {
    if (firstTile == 0) heads[headCount++] = filled;
    const RowTile first = makeTile(a, segment, kvHead, firstTile * kTileRows);
    const RowTile last = makeTile(a, segment, kvHead, (endTile - 1) * kTileRows);
    const int64_t keys = last.keysEnd - first.keysBegin;
    chunks[filled++] = {segment, kvHead, firstTile, endTile - firstTile, first.keysBegin, last.keysEnd, sumsSize};
    sumsSize += 2 * keys * width;
  });
  heads[headCount] = filled;

  Workspace<float> sums(sumsSize);
  const int64_t size = BackwardScratch::size(a.headDim, width);
  Workspace<float> memory(size * threadCount());
  // Last chunks first: they see the most keys.
  parallelTasks(count, [&](int64_t task, int thread) {
    const Chunk& chunk = chunks[count - 1 - task];
    const BackwardScratch scratch(memory.get() + thread * size, a.headDim, width);
    const int64_t length = (chunk.keysEnd - chunk.keysBegin) * width;
    float* dk = sums.get() + chunk.sums;
    std::memset(dk, 0, static_cast<size_t>(2 * length) * sizeof(float));
    for (int64_t i = 0; i < chunk.tiles; i++) {
      const RowTile tile = makeTile(a, chunk.segment, chunk.kvHead, (chunk.firstTile + i) * kTileRows);
      backwardTile(b, tile, width, scratch, dk, dk + length, chunk.keysBegin);
    }
  });
  parallelTasks(headCount, [&](int64_t head, int) {
    const Chunk* first = chunks.get() + heads[head];
    const int64_t keys = a.segments[first->segment].kLength;
    for (int64_t key = 0; key < keys; key += kTileKeys) {
      addChunks(b, first, heads[head + 1] - heads[head], width, sums.get(), key);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
