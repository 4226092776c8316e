// Where attention finds rows of keys and values, and how their numbers become f32: one behind the other, as a training
// step has them, or in the blocks of a cache, stored in f32, bf16, f16 or 8 bits. Not here: what is done with the rows
// (attention.cc, attention-thin.h, ../bf16/), how they get into a cache (store-rows.cc).
#pragma once
#include <type_traits>

#include "attention-tile.h"
#include "half.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

typedef uint16_t HalfVec __attribute__((vector_size(kLanes * 2)));
typedef int8_t ByteVec __attribute__((vector_size(kLanes)));

// How a row is stored: at() is kLanes numbers from a column on that is a multiple of kLanes, one() a single number, and
// byteOf() where a column's numbers lie.

struct F32Row {
  LOWRANK_INLINE static Vec at(const char* row, int64_t column) { return load(reinterpret_cast<const float*>(row) + column); }
  LOWRANK_INLINE static float one(const char* row, int64_t column) { return reinterpret_cast<const float*>(row)[column]; }
  LOWRANK_INLINE static int64_t byteOf(int64_t column) { return 4 * column; }
};

LOWRANK_INLINE IntVec halvesAt(const char* row, int64_t column) {
  HalfVec halves;
  std::memcpy(&halves, row + 2 * column, sizeof halves);
  return __builtin_convertvector(halves, IntVec);
}

LOWRANK_INLINE uint16_t halfAt(const char* row, int64_t column) {
  uint16_t half;
  std::memcpy(&half, row + 2 * column, sizeof half);
  return half;
}

struct Bf16Row {
  LOWRANK_INLINE static Vec at(const char* row, int64_t column) { return (Vec)(halvesAt(row, column) << 16); }
  LOWRANK_INLINE static float one(const char* row, int64_t column) { return fromBf16(halfAt(row, column)); }
  LOWRANK_INLINE static int64_t byteOf(int64_t column) { return 2 * column; }
};

struct F16Row {
  LOWRANK_INLINE static Vec at(const char* row, int64_t column) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 2 * column)));
#else
    // fromF16 (half.h), a vector at a time.
    const IntVec half = halvesAt(row, column), magnitude = half & 0x7fff, shifted = magnitude << 13;
    const Vec finite = (Vec)shifted * 0x1p112f;
    const IntVec number = magnitude >= 0x7c00 ? (shifted | 0x7f800000) : (IntVec)finite;
    return (Vec)(number | (half & 0x8000) << 16);
#endif
  }
  LOWRANK_INLINE static float one(const char* row, int64_t column) { return fromF16(halfAt(row, column)); }
  LOWRANK_INLINE static int64_t byteOf(int64_t column) { return 2 * column; }
};

/**
 * ggml's Q8_0, with the scales of a row behind all of its codes:
 *   i8 codes[width] | f16 scales[width / 32]        number i = codes[i] * scales[i / 32]
 */
struct Q8Row {
  int64_t width;
  LOWRANK_INLINE float scale(const char* row, int64_t column) const { return fromF16(halfAt(row + width, column / 32)); }
  LOWRANK_INLINE Vec at(const char* row, int64_t column) const {
    ByteVec codes;
    std::memcpy(&codes, row + column, sizeof codes);
    return __builtin_convertvector(codes, Vec) * scale(row, column);
  }
  LOWRANK_INLINE float one(const char* row, int64_t column) const {
    return static_cast<float>(static_cast<int8_t>(row[column])) * scale(row, column);
  }
  LOWRANK_INLINE static int64_t byteOf(int64_t column) { return column; }
};

/** Columns [column, column + n) of a row as f32. */
template <class Numbers>
LOWRANK_INLINE void toFloats(const Numbers& numbers, const char* row, int64_t column, int64_t n, float* to) {
  int64_t i = 0;
  if (column % kLanes == 0) {
    for (; i + kLanes <= n; i += kLanes) store(to + i, numbers.at(row, column + i));
  }
  for (; i < n; i++) to[i] = numbers.one(row, column + i);
}

/** Rows of x, one behind the other, a segment's from its kStart on. */
struct FlatSource {
  const float* x;
  int64_t stride;
  F32Row numbers{};

  LOWRANK_INLINE const char* row(const Segment& s, int64_t key) const {
    return reinterpret_cast<const char*>(x + (s.kStart + key) * stride);
  }
  /** The columns of one head; `own` is working memory for as many floats. */
  LOWRANK_INLINE const float* floats(const Segment& s, int64_t key, int64_t column, int64_t, float*) const {
    return x + (s.kStart + key) * stride + column;
  }
  LOWRANK_INLINE KeyRows tileRows(const AttentionArgs& a, const RowTile& tile, int64_t key, int64_t keys,
                                  float* packed) const {
    return keyRows(a, tile, x, key, keys, packed);
  }
};

/** Rows in blocks of so many tokens: kStart is where a segment's list of blocks begins in `blocks`. */
template <class Stored>
struct BlockSource {
  const char* base;
  int64_t rowBytes;
  const int32_t* blocks;
  int64_t blockTokens;
  Stored numbers;

  LOWRANK_INLINE const char* row(const Segment& s, int64_t key) const {
    return base + (blocks[s.kStart + key / blockTokens] * blockTokens + key % blockTokens) * rowBytes;
  }
  LOWRANK_INLINE const float* floats(const Segment& s, int64_t key, int64_t column, int64_t n, float* own) const {
    const char* from = row(s, key);
    if constexpr (std::is_same_v<Stored, F32Row>) return reinterpret_cast<const float*>(from) + column;
    toFloats(numbers, from, column, n, own);
    return own;
  }
  LOWRANK_INLINE KeyRows tileRows(const AttentionArgs& a, const RowTile& tile, int64_t key, int64_t keys,
                                  float* packed) const {
    const Segment& s = a.segments[tile.segment];
    const int64_t d = a.headDim, column = tile.kvHead * d;
    if constexpr (std::is_same_v<Stored, F32Row>) {
      // Blocks that were taken one after the other often lie so.
      bool together = !stridesCollide(a);
      for (int64_t j = blockTokens - key % blockTokens; together && j < keys; j += blockTokens)
        together = row(s, key + j) == row(s, key) + j * rowBytes;
      if (together) return {floats(s, key, column, d, packed), rowBytes / 4};
    }
    for (int64_t j = 0; j < keys; j++) toFloats(numbers, row(s, key + j), column, d, packed + j * d);
    return {packed, d};
  }
};

/** Calls body(keys, values) with the sources of a call's cache. */
template <class Body>
void withCache(const CachedAttentionArgs& c, const Body& body) {
  const int64_t width = c.kvHeads * c.headDim;
  const auto both = [&](int64_t rowBytes, auto numbers) {
    const auto sourceOf = [&](const void* x) {
      return BlockSource<decltype(numbers)>{static_cast<const char*>(x), rowBytes, c.blocks, c.blockTokens, numbers};
    };
    body(sourceOf(c.k), sourceOf(c.v));
  };
  if (c.kType == DType::F32) both(4 * width, F32Row{});
  else if (c.kType == DType::BF16) both(2 * width, Bf16Row{});
  else if (c.kType == DType::F16) both(2 * width, F16Row{});
  else both(width + width / 16, Q8Row{width});
}

/** A cached call as its kernels see it, but for where keys and values are. */
inline AttentionArgs withoutCache(const CachedAttentionArgs& c) {
  return {c.q,      nullptr, nullptr,  c.segments, c.segmentCount, c.tq,  c.heads, c.kvHeads,
          c.headDim, c.scale, c.window, c.softcap,  c.sinks,        c.out, c.lse};
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
