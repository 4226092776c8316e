// Tiles of bf16 in shared memory for attention on tensor cores, converted from f32 on the way in, and their products.
// Widths are multiples of 4 and tensors begin at multiples of 16 bytes.
// Not here: what is done with them (attention.cu, attention-backward.cu).
//
// A product m16n8k16 may walk its depth and number its columns in any order that both operands agree on, so a lane
// (g = lane / 4, t = lane % 4) reads 16 bytes at a time and gets what several products need:
//   rows:  [row][width / 8] of 8 neighbors in width. The products are deep in width: lane t's 8 neighbors of each 32 are
//          its share of two steps. Odd rows swap the halves of each 128 bytes where rows would begin at the same bank.
//   pairs: [row / 2][width + 8] of words (row, row + 1). The products are deep in rows; lane g's word i of 32 columns
//          belongs to the i-th of four products, so a lane ends up with sums of 8 neighboring columns, 8 t + 4 e + i.
#pragma once
#include "attention.h"

template <int D>
FN int chunkAt(int row, int chunk) {
  return row * (D / 8) + (D % 64 == 0 ? chunk ^ (row & 1) << 2 : chunk);
}

/** Words of 16 bytes that so many rows take in either form. */
template <int D, int ROWS>
constexpr int rowsSize = ROWS * D / 8;
template <int D, int ROWS>
constexpr int pairsSize = ROWS / 2 * (D + 8) / 4;

/** Rows of one head: `count` of them, `stride` floats apart, of `width` floats; what lies beyond is zero. */
struct Source {
  const float* from;
  u32 stride;
  int count, width;
};

FN Source sourceOf(const float* tensor, u32 heads, u32 head, u32 width, int start, int count) {
  return {tensor + ((u64)start * heads + head) * width, heads * width, count, (int)width};
}

FN float4 fourOf(const Source& s, int row, int column) {
  if (row >= s.count || column >= s.width) return make_float4(0, 0, 0, 0);
  return *(const float4*)(s.from + (u64)row * s.stride + column);
}

template <int D, int ROWS, int THREADS>
FN void loadRows(uint4* to, const Source& s) {
  ROLLED
  for (int i = threadIdx.x; i < ROWS * (D / 8); i += THREADS) {
    const int row = i / (D / 8), chunk = i % (D / 8);
    const float4 low = fourOf(s, row, 8 * chunk), high = fourOf(s, row, 8 * chunk + 4);
    to[chunkAt<D>(row, chunk)] =
        make_uint4(packBf16(low.x, low.y), packBf16(low.z, low.w), packBf16(high.x, high.y), packBf16(high.z, high.w));
  }
}

template <int D, int ROWS, int THREADS>
FN void loadPairs(uint4* to, const Source& s) {
  ROLLED
  for (int i = threadIdx.x; i < ROWS / 2 * (D / 4); i += THREADS) {
    const int pair = i / (D / 4), chunk = i % (D / 4);
    const float4 first = fourOf(s, 2 * pair, 4 * chunk), second = fourOf(s, 2 * pair + 1, 4 * chunk);
    to[pair * ((D + 8) / 4) + chunk] = make_uint4(packBf16(first.x, second.x), packBf16(first.y, second.y),
                                                  packBf16(first.z, second.z), packBf16(first.w, second.w));
  }
}

/** Both of them from one read. */
template <int D, int ROWS, int THREADS>
FN void loadBoth(uint4* rows, uint4* pairs, const Source& s) {
  ROLLED
  for (int i = threadIdx.x; i < ROWS / 2 * (D / 4); i += THREADS) {
    const int pair = i / (D / 4), chunk = i % (D / 4);
    const float4 first = fourOf(s, 2 * pair, 4 * chunk), second = fourOf(s, 2 * pair + 1, 4 * chunk);
    pairs[pair * ((D + 8) / 4) + chunk] = make_uint4(packBf16(first.x, second.x), packBf16(first.y, second.y),
                                                     packBf16(first.z, second.z), packBf16(first.w, second.w));
    uint2* halves = (uint2*)rows + chunk % 2;
    halves[2 * chunkAt<D>(2 * pair, chunk / 2)] = make_uint2(packBf16(first.x, first.y), packBf16(first.z, first.w));
    halves[2 * chunkAt<D>(2 * pair + 1, chunk / 2)] =
        make_uint2(packBf16(second.x, second.y), packBf16(second.z, second.w));
  }
}

/** sums[j] += the products of this warp's 16 rows of `left`, from `row` on, and rows 8 j .. 8 j + 7 of `right`. */
template <int D, int BLOCKS>
FN void multiplyRows(float (&sums)[BLOCKS][4], const uint4* left, int row, const uint4* right, int width) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  ROLLED
  for (int c = 0; 32 * c < width; c++) {
    const uint4 a = left[chunkAt<D>(row + g, 4 * c + t)], b = left[chunkAt<D>(row + g + 8, 4 * c + t)];
    UNROLL
    for (int j = 0; j < BLOCKS; j++) {
      const uint4 r = right[chunkAt<D>(8 * j + g, 4 * c + t)];
      mmaBf16(sums[j], a.x, b.x, a.y, b.y, r.x, r.y);
      mmaBf16(sums[j], a.z, b.z, a.w, b.w, r.z, r.w);
    }
  }
}

/** Sums over 16 rows and 8 BLOCKS columns, as left operands of products that are deep in those columns. */
template <int BLOCKS>
FN void toLeft(const float (&sums)[BLOCKS][4], u32 (&left)[BLOCKS / 2][4]) {
  UNROLL
  for (int k = 0; k < BLOCKS / 2; k++) {
    left[k][0] = packBf16(sums[2 * k][0], sums[2 * k][1]);
    left[k][1] = packBf16(sums[2 * k][2], sums[2 * k][3]);
    left[k][2] = packBf16(sums[2 * k + 1][0], sums[2 * k + 1][1]);
    left[k][3] = packBf16(sums[2 * k + 1][2], sums[2 * k + 1][3]);
  }
}

/** sums += left times the pairs' columns from `column` on; those at `width` and beyond are left out, 32 at a time. */
template <int D, int STEPS, int COLUMNS>
FN void multiplyPairs(float (&sums)[COLUMNS / 8][4], const u32 (&left)[STEPS][4], const uint4* pairs, int column,
                      int width) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  UNROLL
  for (int c = 0; c < COLUMNS / 32; c++) {
    if (column + 32 * c >= width) break;
    UNROLL
    for (int k = 0; k < STEPS; k++) {
      const uint4* from = pairs + (8 * k + t) * ((D + 8) / 4) + (column + 32 * c) / 4 + g;
      const uint4 b = from[0], d = from[4 * ((D + 8) / 4)];
      mmaBf16(sums[4 * c], left[k][0], left[k][1], left[k][2], left[k][3], b.x, d.x);
      mmaBf16(sums[4 * c + 1], left[k][0], left[k][1], left[k][2], left[k][3], b.y, d.y);
      mmaBf16(sums[4 * c + 2], left[k][0], left[k][1], left[k][2], left[k][3], b.z, d.z);
      mmaBf16(sums[4 * c + 3], left[k][0], left[k][1], left[k][2], left[k][3], b.w, d.w);
    }
  }
}

/** Writes this lane's sums of one row (upper: row g, else g + 8), times `factor`, to `to` = the head's row. */
template <int COLUMNS>
FN void storeRow(const float (&sums)[COLUMNS / 8][4], bool upper, float factor, float* to, int column, int width) {
  const int t = threadIdx.x & 3;
  UNROLL
  for (int c = 0; c < COLUMNS / 32; c++) {
    UNROLL
    for (int e = 0; e < 2; e++) {
      const int at = column + 32 * c + 8 * t + 4 * e, from = upper ? e : 2 + e;
      if (at < width) {
        *(float4*)(to + at) = make_float4(sums[4 * c][from] * factor, sums[4 * c + 1][from] * factor,
                                          sums[4 * c + 2][from] * factor, sums[4 * c + 3][from] * factor);
      }
    }
  }
}
