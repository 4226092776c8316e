// The tile that attention and its backward pass share: up to 64 rows against blocks of 64 keys. A row is one query
// of one head; the heads of a group stand side by side (row = query * group + head), so that their common K and V
// are read once for all of them, in decoding too. Inside a tile rows are lanes: q is kept transposed [D][64] and
// scores as [keys][64], so that softmax needs no work across lanes and K and V are used where they lie.
// Not here: the order of work (attention.cc, attention-backward.cc), the products (tile-product.h),
// how rows become lanes (lanes.h).
#pragma once
#include "../kernels.h"
#include "../simd.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int kTileRows = 64;
constexpr int kTileKeys = 64;
constexpr float kLog2E = 1.44269504089f;

struct RowTile {
  int32_t segment, kvHead;
  int64_t firstRow;
  int32_t rows;
  int64_t keysBegin, keysEnd;    // within the segment: every key that any row sees
};

/** Where the rows of a tile lie, and up to which key each one sees. */
struct TileRows {
  int64_t offset[kTileRows];     // of a row's head vector in q, out, dOut, dq (elements)
  int64_t scalar[kTileRows];     // of a row's entry in lse
  alignas(64) int32_t position[kTileRows];
  int32_t firstPosition, lastPosition;
  int rows, vectors;             // vectors of kLanes rows; lanes past `rows` repeat the last row's position
};

LOWRANK_INLINE int64_t groupSize(const AttentionArgs& a) { return a.heads / a.kvHeads; }

/** keysBegin and keysEnd are moved outwards to multiples of keyUnit; what no row sees is hidden by maskScores. */
LOWRANK_INLINE RowTile makeTile(const AttentionArgs& a, int64_t segment, int64_t kvHead, int64_t firstRow,
                                int64_t keyUnit) {
  const Segment& s = a.segments[segment];
  const int64_t group = groupSize(a);
  const int64_t rows = smaller(kTileRows, s.qLength * group - firstRow);
  const int64_t before = static_cast<int64_t>(s.kLength) - s.qLength;
  const int64_t first = before + firstRow / group;
  const int64_t last = before + (firstRow + rows - 1) / group;
  RowTile tile;
  tile.segment = static_cast<int32_t>(segment);
  tile.kvHead = static_cast<int32_t>(kvHead);
  tile.firstRow = firstRow;
  tile.rows = static_cast<int32_t>(rows);
  tile.keysBegin = a.window > 0 ? larger(0, first - a.window + 1) / keyUnit * keyUnit : 0;
  tile.keysEnd = roundUp(last + 1, keyUnit);
  return tile;
}

LOWRANK_INLINE void locateRows(const AttentionArgs& a, const RowTile& tile, TileRows& t) {
  const Segment& s = a.segments[tile.segment];
  const int64_t group = groupSize(a);
  t.rows = tile.rows;
  t.vectors = static_cast<int>(divideUp(tile.rows, kLanes));
  for (int r = 0; r < t.rows; r++) {
    const int64_t query = (tile.firstRow + r) / group;
    t.scalar[r] = (s.qStart + query) * a.heads + tile.kvHead * group + (tile.firstRow + r) % group;
    t.offset[r] = t.scalar[r] * a.headDim;
    t.position[r] = static_cast<int32_t>(s.kLength - s.qLength + query);
  }
  const int64_t before = static_cast<int64_t>(s.kLength) - s.qLength;
  t.firstPosition = static_cast<int32_t>(before + tile.firstRow / group);
  t.lastPosition = static_cast<int32_t>(before + (tile.firstRow + tile.rows - 1) / group);
  for (int r = t.rows; r < kTileRows; r++) t.position[r] = t.lastPosition;
}

/** Whether some row of the tile does not see some key of [key, key + keys). */
LOWRANK_INLINE bool needsMask(const AttentionArgs& a, const TileRows& t, int64_t key, int64_t keys) {
  return key + keys - 1 > t.firstPosition || (a.window > 0 && key <= t.lastPosition - a.window);
}

/** Overwrites scores [keys][64] by `hidden` where the row of that lane does not see the key. */
LOWRANK_INLINE void maskScores(const AttentionArgs& a, const TileRows& t, int64_t firstKey, int64_t keys, float hidden,
                               float* scores) {
  const IntVec reach = IntVec{} + static_cast<int32_t>(a.window > 0 ? a.window : INT32_MAX / 2);
  for (int v = 0; v < t.vectors; v++) {
    IntVec position;
    std::memcpy(&position, t.position + v * kLanes, sizeof position);
    for (int64_t j = 0; j < keys; j++) {
      const IntVec distance = position - static_cast<int32_t>(firstKey + j);
      float* at = scores + j * kTileRows + v * kLanes;
      const Vec kept = distance >= 0 ? load(at) : broadcast(hidden);
      store(at, distance < reach ? kept : broadcast(hidden));
    }
  }
}

/** Rows of K or V of one head: element (key, d) at data[key * stride + d]. */
struct KeyRows {
  const float* data;
  int64_t stride;
};

/** Rows a multiple of 1 KB apart fall into few cache sets and must be packed before they are walked repeatedly. */
LOWRANK_INLINE bool stridesCollide(const AttentionArgs& a) { return a.kvHeads * a.headDim % 256 == 0; }

/** The rows [key, key + keys) of x (K or V) of the tile's head: in place, or copied to `packed` [keys][D]. */
LOWRANK_INLINE KeyRows keyRows(const AttentionArgs& a, const RowTile& tile, const float* x, int64_t key, int64_t keys,
                               float* packed) {
  const int64_t d = a.headDim, stride = a.kvHeads * d;
  const float* from = x + (a.segments[tile.segment].kStart + key) * stride + tile.kvHead * d;
  if (!stridesCollide(a)) return {from, stride};
  for (int64_t j = 0; j < keys; j++) {
    std::memcpy(packed + j * d, from + j * stride, static_cast<size_t>(d) * sizeof(float));
  }
  return {packed, d};
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
