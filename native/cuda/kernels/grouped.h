// What the products of a mixture's experts share: which expert's rows a block has, and elements of a stack of weights, dense
// or quantised. Not here: products (grouped.cu), layers of one weight (product*.cu).
#pragma once
#include "attention-tiles.h"

/** Kind of a stack beside the codes of dtypes. */
constexpr u32 kQuantized = 16;

FN i32 tilesOf(i32 count, i32 size) { return (count + size - 1) / size; }

struct ExpertRows {
  i32 expert;  // -1: none
  i32 first, end;
};

/** The rows of tile `tile` when every expert's rows are cut into tiles of `size`; the whole block asks. */
FN ExpertRows expertRowsOf(const i32* offsets, i32 experts, i32 size, i32 tile) {
  SHARED(ExpertRows, found);
  if (threadIdx.x < 32) {
    const i32 lane = (i32)threadIdx.x, each = (experts + 31) / 32;
    if (lane == 0) found.expert = -1;
    __syncwarp();
    i32 own = 0;
    for (i32 e = lane * each; e < experts && e < (lane + 1) * each; e++) own += tilesOf(offsets[e + 1] - offsets[e], size);
    i32 before = own;
    UNROLL
    for (int d = 1; d < 32; d *= 2) {
      const i32 other = __shfl_up_sync(kWholeWarp, before, d);
      if (lane >= d) before += other;
    }
    before -= own;
    if (tile >= before && tile < before + own) {
      for (i32 e = lane * each; e < experts; e++) {
        const i32 tiles = tilesOf(offsets[e + 1] - offsets[e], size);
        if (tile < before + tiles) {
          found = {e, offsets[e] + (tile - before) * size, offsets[e + 1]};
          break;
        }
        before += tiles;
      }
    }
  }
  __syncthreads();
  const ExpertRows rows = found;
  __syncthreads();
  return rows;
}

/** Eight neighbors of a row of an expert's matrix [rows, width], from `column` on; 0 beyond its ends. */
template <class Arguments>
FN void eightOf(const Arguments& a, i32 expert, u32 row, u32 rows, u32 column, float (&v)[8]) {
  const u32 width = a.stackWidth;
  UNROLL
  for (int e = 0; e < 8; e++) v[e] = 0;
  if (row >= rows || column >= width) return;
  // A matrix has less than 2^32 elements, all of them together may have more.
  const u32 size = rows * width, at = row * width + column;
  const u64 whole = (u64)expert * size + at;
  const bool inside = column + 8 <= width;
  if (a.stackType != kQuantized) {
    if (a.stackType == kF32 && inside && a.stackAligned) {
      const float4* from = (const float4*)((const float*)a.dense + whole);
      const float4 low = from[0], high = from[1];
      v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
      v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else if (a.stackType == kBf16 && inside && a.stackAligned) {
      const uint4 four = *(const uint4*)((const u16*)a.dense + whole);
      v[0] = lowBf16(four.x), v[1] = highBf16(four.x), v[2] = lowBf16(four.y), v[3] = highBf16(four.y);
      v[4] = lowBf16(four.z), v[5] = highBf16(four.z), v[6] = lowBf16(four.w), v[7] = highBf16(four.w);
    } else {
      UNROLL
      for (int e = 0; e < 8; e++) {
        if (column + e < width) v[e] = loadAs(a.dense, a.stackType, whole + e);
      }
    }
    return;
  }
  const u8* codes = a.codes + (u64)expert * (size / 2 + (size & 1));
  const u32 blocks = (size - 1) / a.blockSize + 1;
  u32 block = at / a.blockSize, left = 0;
  float scale = 0;
  UNROLL
  for (int e = 0; e < 8; e++) {
    if (column + e >= width) continue;
    if (left == 0) {
      const u64 own = (u64)expert * blocks + block;
      if (a.nestedCodebook) {
        const u64 outer = (u64)expert * ((blocks - 1) / a.nestedBlockSize + 1) + block / a.nestedBlockSize;
        scale = fmaf(a.nestedCodebook[((const u8*)a.absmax)[own]], a.nestedAbsmax[outer], a.nestedOffsets[expert]);
      } else {
        scale = ((const float*)a.absmax)[own];
      }
      left = e == 0 ? a.blockSize - at % a.blockSize : a.blockSize;
      block++;
    }
    left--;
    const u32 i = at + e, pair = codes[i / 2];
    v[e] = a.codebook[i & 1 ? pair & 15 : pair >> 4] * scale;
  }
}
