// The tile's rows to lanes and back: transposes between [rows][D] as tensors hold them and [D][64] as tiles do.
// Not here: what a tile is (attention-tile.h).
#pragma once
#include "attention-tile.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

#if defined(__AVX512F__)

/** Transposes 16 x 16 units of 32 bits: inside the 128-bit quarters first, then the quarters themselves. */
LOWRANK_INLINE void transpose16(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c), t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d), t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
    r[i] = _mm512_shuffle_i32x4(a, c, 0x88), r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88), r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

LOWRANK_INLINE __mmask16 firstLanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

/** lanes [units][64] of units that unitsOf(row, first, count) gives 16 at a time; lanes past the last row are 0. */
template <class UnitsOf>
LOWRANK_INLINE void transposeRows(const TileRows& t, int64_t units, void* lanes, const UnitsOf& unitsOf) {
  auto* to = static_cast<uint32_t*>(lanes);
  for (int r = 0; r < t.rows; r += 16) {
    for (int64_t u = 0; u < units; u += 16) {
      const int64_t count = smaller(16, units - u);
      __m512i b[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) b[i] = r + i < t.rows ? unitsOf(r + i, u, count) : _mm512_setzero_si512();
      transpose16(b);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        if (i < count) _mm512_storeu_si512(to + (u + i) * kTileRows + r, b[i]);
      }
    }
  }
}

/** lanes [D][64] = factor * the tile's rows of x; lanes past the last row become 0. */
inline void rowsToLanes(const TileRows& t, const float* x, int64_t headDim, float factor, float* lanes) {
  transposeRows(t, headDim, lanes, [&](int row, int64_t d, int64_t count) {
    return (__m512i)(_mm512_maskz_loadu_ps(firstLanes(count), x + t.offset[row] + d) * factor);
  });
}

/** The tile's rows of y = lanes [D][64], lane r times factor[r]. */
inline void lanesToRows(const TileRows& t, const float* lanes, int64_t headDim, const float* factor, float* y) {
  for (int r = 0; r < t.rows; r += 16) {
    const Vec f = load(factor + r);
    for (int64_t d = 0; d < headDim; d += 16) {
      const int64_t count = smaller(16, headDim - d);
      __m512i b[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        b[i] = i < count ? (__m512i)(load(lanes + (d + i) * kTileRows + r) * f) : _mm512_setzero_si512();
      }
      transpose16(b);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        if (r + i < t.rows) _mm512_mask_storeu_epi32(y + t.offset[r + i] + d, firstLanes(count), b[i]);
      }
    }
  }
}

#else

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

#endif

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
