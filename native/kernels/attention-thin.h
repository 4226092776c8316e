// Attention of a few rows, as decoding has them: most lanes of a tile would be empty, so here lanes are elements of the
// head, and then keys. K and V are read once, as they lie. Leaves the same sums as a tile. Not here: tiles of many rows
// (attention.cc), their order (attention-order.h).
#pragma once
#include <atomic>
#include <cfloat>
#include <type_traits>

#include "../sum-lanes.h"
#include "attention-order.h"
#include "key-source.h"
#include "tile-product.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** A block of keys whose scores lie together, and the keys of it that all heads pass over one after the other. */
constexpr int64_t kThinKeys = kThinPartKeys, kThinStep = 16;

/** Asks for the memory of `count` columns of a row. */
template <class Numbers>
LOWRANK_INLINE void askFor(const Numbers& numbers, const char* row, int64_t column, int64_t count) {
  const char* end = row + numbers.byteOf(column + count);
  for (const char* at = row + numbers.byteOf(column); at < end; at += 64) __builtin_prefetch(at);
}

/** The rows of a block of keys, and as many behind it as a step has, which repeat the last. */
struct ThinRows {
  const char* row[kThinKeys + kThinStep];
  template <class Source>
  LOWRANK_INLINE ThinRows(const Source& source, const Segment& segment, int64_t key, int64_t keys) {
    for (int64_t j = 0; j < keys; j++) row[j] = source.row(segment, key + j);
    for (int64_t j = keys; j < keys + kThinStep; j++) row[j] = row[keys - 1];
  }
};

/** Lane i: the sum of the lanes of v[i]. */
LOWRANK_INLINE Vec sumsOfLanes(const Vec (&v)[kLanes]) {
#if defined(__AVX512F__)
  return (Vec)sumsOfLanes16(reinterpret_cast<const __m512(&)[16]>(v));
#else
  float sums[kLanes];
  for (int i = 0; i < kLanes; i++) sums[i] = sumLanes(v[i]);
  return load(sums);
#endif
}

/** scores[r][j] = q[r] . k[j] for Rows rows and all keys. q [rows][D]. Asks for as much memory of the rows `ahead`. */
template <int Rows, class Numbers>
void thinScores(const Numbers& numbers, const float* q, const char* const* k, int64_t column, int64_t keys, int64_t d,
                const char* const* ahead, float* scores) {
  for (int64_t first = 0; first < keys; first += kLanes) {
    const int count = static_cast<int>(smaller(kLanes, keys - first));
    Vec sums[Rows][kLanes] = {};
    for (int j = 0; j < count; j++) {
      const char* key = k[first + j];
      askFor(numbers, ahead[first + j], column, d);
      Vec own[Rows];
      const Vec begin = numbers.at(key, column);
      for (int r = 0; r < Rows; r++) own[r] = load(q + r * d) * begin;
      for (int64_t i = kLanes; i < d; i += kLanes) {
        const Vec element = numbers.at(key, column + i);
        for (int r = 0; r < Rows; r++) own[r] = multiplyAdd(load(q + r * d + i), element, own[r]);
      }
      for (int r = 0; r < Rows; r++) sums[r][j] = own[r];
    }
    for (int r = 0; r < Rows; r++) store(scores + r * kThinKeys + first, sumsOfLanes(sums[r]));
  }
}

/** out[r] += weights[r] . v for Rows rows and Vectors vectors of the head. out [rows][D]. */
template <int Rows, int Vectors, class Numbers>
void thinOutputs(const Numbers& numbers, const float* weights, const char* const* v, int64_t column, int64_t keys,
                 int64_t d, float* out) {
  Vec sums[Rows][Vectors];
  for (int r = 0; r < Rows; r++) {
    for (int i = 0; i < Vectors; i++) sums[r][i] = load(out + r * d + i * kLanes);
  }
  for (int64_t j = 0; j < keys; j++) {
    askFor(numbers, v[j + kThinStep], column, Vectors * kLanes);
    Vec value[Vectors];
    for (int i = 0; i < Vectors; i++) value[i] = numbers.at(v[j], column + i * kLanes);
    for (int r = 0; r < Rows; r++) {
      const Vec weight = broadcast(weights[r * kThinKeys + j]);
      for (int i = 0; i < Vectors; i++) sums[r][i] = multiplyAdd(weight, value[i], sums[r][i]);
    }
  }
  for (int r = 0; r < Rows; r++) {
    for (int i = 0; i < Vectors; i++) store(out + r * d + i * kLanes, sums[r][i]);
  }
}

/** Calls body(first, count as a constant) for runs of up to four of `rows` rows. */
template <class Body>
LOWRANK_INLINE void eachFewRows(int rows, const Body& body) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) body(r, std::integral_constant<int, 4>());
  if (rows - r == 3) body(r, std::integral_constant<int, 3>());
  if (rows - r == 2) body(r, std::integral_constant<int, 2>());
  if (rows - r == 1) body(r, std::integral_constant<int, 1>());
}

/** Hides the keys [key, key + keys) that row r does not see. */
inline void hideKeys(const AttentionArgs& a, const TileRows& t, int r, int64_t key, int64_t keys, float* scores) {
  const int64_t begin = a.window > 0 ? t.position[r] - a.window + 1 : 0;
  for (int64_t j = 0; j < keys; j++) {
    if (key + j < begin || key + j > t.position[r]) scores[j] = -FLT_MAX;
  }
}

/** Scores become exp2(score - largest) and largest and total move on; returns what older sums shrink by. */
inline float thinSoftmax(float* scores, int64_t keys, float& largest, float& total) {
  const int64_t whole = roundUp(keys, kLanes);
  for (int64_t j = keys; j < whole; j++) scores[j] = -FLT_MAX;
  Vec best = broadcast(largest);
  for (int64_t j = 0; j < whole; j += kLanes) best = maximum(load(scores + j), best);
  const float most = largestLane(best);
  Vec sum = {};
  for (int64_t j = 0; j < whole; j += kLanes) {
    const Vec p = exponentialBase2(load(scores + j) - most);
    store(scores + j, p);
    sum += p;
  }
  const float factor = exp2f(largest - most);
  total = total * factor + sumLanes(sum);
  largest = most;
  return factor;
}

LOWRANK_INLINE bool isThin(const AttentionArgs& a, int64_t rows) {
  return rows <= kThinRows && a.headDim % kLanes == 0;
}

/** What some keys leave behind of `rows` rows: out [rows][D] is not yet divided by total; largest is in log2. */
struct ThinSums {
  float *out, *largest, *total;
  static int64_t size(int64_t rows, int64_t headDim) { return roundUp(rows * (headDim + 2), 16); }
  ThinSums(float* memory, int64_t rows, int64_t headDim)
      : out(memory), largest(memory + rows * headDim), total(largest + rows) {}
};

/** Floats of working memory of thinSums. */
LOWRANK_INLINE int64_t thinScratchSize(int64_t rows, int64_t headDim) { return rows * (headDim + 1 + kThinKeys); }

/** The sums of `heads` key/value heads from the tile's on; the rows of each after those of the one before. */
template <class Source>
void thinSums(const AttentionArgs& a, const Source& k, const Source& v, const RowTile& tile, const TileRows& t,
              int64_t heads, const ThinSums& s, float* scratch) {
  const int64_t d = a.headDim, column = tile.kvHead * d, rows = heads * t.rows, nextHead = groupSize(a) * d;
  const float unit = scoreUnit(a);
  float *q = scratch, *scores = q + rows * d, *factor = scores + rows * kThinKeys;
  for (int64_t row = 0; row < rows; row++) {
    const float* from = a.q + t.offset[row % t.rows] + row / t.rows * nextHead;
    for (int64_t i = 0; i < d; i += kLanes) {
      store(q + row * d + i, load(from + i) * unit);
      store(s.out + row * d + i, Vec{});
    }
    s.largest[row] = -FLT_MAX;
    s.total[row] = 0;
  }
  const Segment& segment = a.segments[tile.segment];
  const float cap = a.softcap * kLog2E;
  for (int64_t key = tile.keysBegin; key < tile.keysEnd; key += kThinKeys) {
    const int64_t keys = smaller(kThinKeys, tile.keysEnd - key);
    const ThinRows keyRows(k, segment, key, keys), valueRows(v, segment, key, keys);
    for (int64_t j = 0; j < keys; j += kThinStep) {
      const int64_t count = smaller(kThinStep, keys - j);
      const char *const *own = keyRows.row + j, *const *next = j + kThinStep < keys ? own + kThinStep : valueRows.row;
      for (int64_t head = 0; head < heads; head++) {
        eachFewRows(t.rows, [&](int r, auto few) {
          const int64_t row = head * t.rows + r;
          thinScores<decltype(few)::value>(k.numbers, q + row * d, own, column + head * d, count, d, next,
                                           scores + row * kThinKeys + j);
        });
      }
    }
    const bool masked = needsMask(a, t, key, keys);
    for (int64_t row = 0; row < rows; row++) {
      float* own = scores + row * kThinKeys;
      if (a.softcap > 0) {
        for (int64_t j = 0; j < keys; j += kLanes) store(own + j, hyperbolicTangent(load(own + j)) * cap);
      }
      if (masked) hideKeys(a, t, static_cast<int>(row % t.rows), key, keys, own);
      factor[row] = thinSoftmax(own, keys, s.largest[row], s.total[row]);
    }
    for (int64_t row = 0; row < rows; row++) {
      for (int64_t i = 0; i < d; i += kLanes) store(s.out + row * d + i, load(s.out + row * d + i) * factor[row]);
    }
    for (int64_t j = 0; j < keys; j += kThinStep) {
      const int64_t count = smaller(kThinStep, keys - j);
      const char* const* own = valueRows.row + j;
      for (int64_t head = 0; head < heads; head++) {
        eachFewRows(t.rows, [&](int r, auto few) {
          constexpr int Rows = decltype(few)::value;
          const int64_t row = head * t.rows + r;
          const float* weights = scores + row * kThinKeys + j;
          int64_t i = 0;
          for (; i + kWideVectors * kLanes <= d; i += kWideVectors * kLanes) {
            thinOutputs<Rows, kWideVectors>(v.numbers, weights, own, column + head * d + i, count, d, s.out + row * d + i);
          }
          for (; i < d; i += kLanes) {
            thinOutputs<Rows, 1>(v.numbers, weights, own, column + head * d + i, count, d, s.out + row * d + i);
          }
        });
      }
    }
  }
}

/** Rows of out and lse of `heads` heads, from the sums of their parts, which lie `size` floats apart, added in order. */
inline void finishThin(const AttentionArgs& a, const TileRows& t, int64_t heads, int64_t parts, int64_t size,
                       float* memory) {
  const int64_t d = a.headDim, rows = heads * t.rows, group = groupSize(a);
  for (int64_t row = 0; row < rows; row++) {
    const auto sumsOf = [&](int64_t part) { return ThinSums(memory + part * size, rows, d); };
    float best = sumsOf(0).largest[row];
    for (int64_t p = 1; p < parts; p++) best = sumsOf(p).largest[row] > best ? sumsOf(p).largest[row] : best;
    float total = 0;
    float* out = a.out + t.offset[row % t.rows] + row / t.rows * group * d;
    for (int64_t p = 0; p < parts; p++) {
      const ThinSums from = sumsOf(p);
      const float take = exp2f(from.largest[row] - best);
      total += from.total[row] * take;
      for (int64_t i = 0; i < d; i += kLanes) {
        const Vec part = load(from.out + row * d + i) * take;
        store(out + i, p == 0 ? part : load(out + i) + part);
      }
    }
    const int64_t scalar = t.scalar[row % t.rows] + row / t.rows * group;
    const float shrink = a.sinks ? withSink(a.sinks[scalar % a.heads], best, total) : 1.0f;
    a.lse[scalar] = best * (1.0f / kLog2E) + logf(total);
    const float share = shrink / total;
    for (int64_t i = 0; i < d; i += kLanes) store(out + i, load(out + i) * share);
  }
}

/**
 * Attention whose tiles are all thin. A part is some keys of a segment, for all heads; a segment's last part to end
 * merges them all: one job, and one order of sums.
 */
template <class Source>
void attentionThin(const AttentionArgs& a, const Source& k, const Source& v) {
  struct Part {
    RowTile keys;
    int32_t first, count;
  };
  const auto tileOf = [&](int64_t segment) { return makeTile(a, segment, 0, 0, 1); };
  const auto partsOf = [](const RowTile& tile) {
    return larger(1, divideUp(tile.keysEnd - tile.keysBegin, kThinPartKeys));
  };
  int64_t partCount = 0, mostRows = 0;
  for (int64_t s = 0; s < a.segmentCount; s++) {
    if (a.segments[s].qLength == 0) continue;
    partCount += partsOf(tileOf(s));
    mostRows = larger(mostRows, a.segments[s].qLength * a.heads);
  }
  if (partCount == 0) return;
  Workspace<Part> parts(partCount);
  Workspace<std::atomic<int32_t>> done(partCount);  // at a segment's first part
  int32_t filled = 0;
  for (int64_t s = 0; s < a.segmentCount; s++) {
    if (a.segments[s].qLength == 0) continue;
    const RowTile tile = tileOf(s);
    const int64_t count = partsOf(tile), keys = tile.keysEnd - tile.keysBegin;
    const int32_t first = filled;
    new (&done[first]) std::atomic<int32_t>(0);
    for (int64_t p = 0; p < count; p++) {
      Part& part = parts[filled++];
      part = {tile, first, static_cast<int32_t>(count)};
      part.keys.keysBegin = tile.keysBegin + keys * p / count;
      part.keys.keysEnd = tile.keysBegin + keys * (p + 1) / count;
    }
  }
  const int64_t size = ThinSums::size(mostRows, a.headDim), scratchSize = thinScratchSize(mostRows, a.headDim);
  Workspace<float> sums(size * filled), scratch(roundUp(scratchSize, 16) * threadCount());
  parallelTasks(filled, [&](int64_t task, int thread) {
    const Part& part = parts[task];
    TileRows rows;
    locateRows(a, part.keys, rows);
    thinSums(a, k, v, part.keys, rows, a.kvHeads, ThinSums(sums.get() + task * size, a.kvHeads * rows.rows, a.headDim),
             scratch.get() + thread * roundUp(scratchSize, 16));
    if (done[part.first].fetch_add(1) + 1 == part.count) {
      finishThin(a, rows, a.kvHeads, part.count, size, sums.get() + part.first * size);
    }
  });
}

/** A thin tile among others: the same, its sums as lanes. */
template <class Source>
void runThinTile(const AttentionArgs& a, const Source& k, const Source& v, const RowTile& tile, const TileRows& t,
                 const TileSums& s, float* scratch) {
  const int64_t d = a.headDim;
  const ThinSums sums(scratch + thinScratchSize(kThinRows, d), t.rows, d);
  thinSums(a, k, v, tile, t, 1, sums, scratch);
  for (int lane = 0; lane < t.vectors * kLanes; lane++) {
    s.largest[lane] = lane < t.rows ? sums.largest[lane] : 0;
    s.total[lane] = lane < t.rows ? sums.total[lane] : 0;
  }
  for (int64_t i = 0; i < d; i++) {
    float* to = s.out + i * kTileRows;
    for (int v = 0; v < t.vectors; v++) store(to + v * kLanes, Vec{});
    for (int r = 0; r < t.rows; r++) to[r] = sums.out[r * d + i];
  }
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
