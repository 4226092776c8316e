// The tile that attention and its backward pass share: up to 64 rows against blocks of 64 keys. A row is one query
// of one head; the heads of a group stand side by side (row = query * group + head), so that their common K and V
// are read once for all of them, in decoding too. Inside a tile rows are lanes: q is kept transposed [D][64] and
// scores as [keys][64], so that softmax needs no work across lanes and K and V are used where they lie.
// Not here: the order of work (attention.cc, attention-backward.cc), the products (tile-product.h).
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

/** Transposes a 4 x 4 block in registers. */
LOWRANK_INLINE void transpose4(Vec4& a, Vec4& b, Vec4& c, Vec4& d) {
#if defined(__x86_64__)
  __m128 w = (__m128)a, x = (__m128)b, y = (__m128)c, z = (__m128)d;
  _MM_TRANSPOSE4_PS(w, x, y, z);
  a = (Vec4)w, b = (Vec4)x, c = (Vec4)y, d = (Vec4)z;
#else
  const Vec4 w = a, x = b, y = c, z = d;
  a = Vec4{w[0], x[0], y[0], z[0]};
  b = Vec4{w[1], x[1], y[1], z[1]};
  c = Vec4{w[2], x[2], y[2], z[2]};
  d = Vec4{w[3], x[3], y[3], z[3]};
#endif
}

LOWRANK_INLINE Vec4 load4(const float* p) {
  Vec4 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
LOWRANK_INLINE void store4(float* p, Vec4 v) { std::memcpy(p, &v, sizeof v); }

/** lanes [D][64] = factor * the tile's rows of x; lanes past the last row become 0. */
inline void rowsToLanes(const TileRows& t, const float* x, int64_t headDim, float factor, float* lanes) {
  const int64_t wholeDim = headDim / 4 * 4;
  const int width = t.vectors * kLanes;
  for (int r = 0; r < width; r += 4) {
    const float* row[4];
    float keep[4];
    for (int i = 0; i < 4; i++) {
      row[i] = x + t.offset[r + i < t.rows ? r + i : 0];
      keep[i] = r + i < t.rows ? 1.0f : 0.0f;
    }
    const bool whole = r + 4 <= t.rows;
    for (int64_t d = 0; d < wholeDim; d += 4) {
      Vec4 b[4];
      for (int i = 0; i < 4; i++) b[i] = load4(row[i] + d) * factor;
      if (!whole) {
        for (int i = 0; i < 4; i++) b[i] = keep[i] != 0 ? b[i] : Vec4{};
      }
      transpose4(b[0], b[1], b[2], b[3]);
      for (int i = 0; i < 4; i++) store4(lanes + (d + i) * kTileRows + r, b[i]);
    }
    for (int64_t d = wholeDim; d < headDim; d++) {
      for (int i = 0; i < 4; i++) lanes[d * kTileRows + r + i] = keep[i] != 0 ? row[i][d] * factor : 0.0f;
    }
  }
}

/** The tile's rows of y = lanes [D][64], lane r times factor[r]. */
inline void lanesToRows(const TileRows& t, const float* lanes, int64_t headDim, const float* factor, float* y) {
  const int64_t wholeDim = headDim / 4 * 4;
  for (int r = 0; r < t.rows; r += 4) {
    const int rows = t.rows - r < 4 ? t.rows - r : 4;
    const Vec4 f = load4(factor + r);
    for (int64_t d = 0; d < wholeDim; d += 4) {
      Vec4 b[4];
      for (int i = 0; i < 4; i++) b[i] = load4(lanes + (d + i) * kTileRows + r) * f;
      transpose4(b[0], b[1], b[2], b[3]);
      for (int i = 0; i < rows; i++) store4(y + t.offset[r + i] + d, b[i]);
    }
    for (int64_t d = wholeDim; d < headDim; d++) {
      for (int i = 0; i < rows; i++) y[t.offset[r + i] + d] = lanes[d * kTileRows + r + i] * f[i];
    }
  }
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
