// Products of a mixture's experts on tensor cores: c = scale a W_e^T (forward) or scale a W_e (back) of every expert's rows,
// plus bias and, where it accumulates, what c holds. bf16 operands, f32 sums. A block has 64 rows of one expert and 128
// columns: blockIdx.x = tile of rows, y = columns. Not here: f32 (grouped-exact.cu), gradients of weights (grouped-outer.cu).
#include "grouped.h"

struct GroupedArguments {
  const float* a;      // [rows, depth], or [tokens, depth] with an index
  const i32* index;    // [rows] or absent
  const i32* offsets;  // [experts + 1]
  const float* bias;   // [experts, n] or absent
  float* c;            // [rows, n]
  const void* dense;   // the stack [experts, stackRows, stackWidth], or its quantised parts
  const u8* codes;
  const void* absmax;
  const float* codebook;
  const float* nestedCodebook;
  const float* nestedAbsmax;
  const float* nestedOffsets;
  u32 experts, n, depth;
  u32 stackRows, stackWidth, stackType, stackAligned, blockSize, nestedBlockSize;
  u32 accumulate;
  float scale;
};

constexpr int kGroupedRows = 64, kGroupedColumns = 128, kGroupedDepth = 64, kGroupedThreads = 128;
constexpr int kLeftSize = rowsSize<kGroupedDepth, kGroupedRows>, kRightSize = rowsSize<kGroupedDepth, kGroupedColumns>;
constexpr int kPairsSize = pairsSize<kGroupedColumns, kGroupedDepth>;

/** 64 rows of a by 64 of its depth, as rows (attention-tiles.h). */
FN void loadLeft(uint4* to, const GroupedArguments& a, const ExpertRows& rows, u32 k0) {
  const bool aligned = a.depth % 4 == 0 && ((u64)a.a & 15) == 0;
  ROLLED
  for (int i = threadIdx.x; i < kGroupedRows * 8; i += kGroupedThreads) {
    const int row = i / 8, chunk = i % 8;
    const u32 k = k0 + 8 * chunk;
    float v[8] = {};
    if (rows.first + row < rows.end && k < a.depth) {
      const u32 source = a.index ? (u32)a.index[rows.first + row] : (u32)(rows.first + row);
      const float* from = a.a + (u64)source * a.depth + k;
      if (aligned && k + 8 <= a.depth) {
        const float4 low = ((const float4*)from)[0], high = ((const float4*)from)[1];
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
      } else {
        UNROLL
        for (int e = 0; e < 8; e++) {
          if (k + e < a.depth) v[e] = from[e];
        }
      }
    }
    to[chunkAt<kGroupedDepth>(row, chunk)] =
        make_uint4(packBf16(v[0], v[1]), packBf16(v[2], v[3]), packBf16(v[4], v[5]), packBf16(v[6], v[7]));
  }
}

FN void finishElement(const GroupedArguments& a, i32 expert, i32 row, u32 column, float sum) {
  if (column >= a.n) return;
  float* to = a.c + (u64)row * a.n + column;
  float value = sum * a.scale;
  if (a.bias) value += a.bias[(u64)expert * a.n + column];
  *to = a.accumulate ? *to + value : value;
}

/** Sums of rows `row` and `row + 8`, each lane's elements (j, e) of columns columnOf(j, e). */
template <class ColumnOf>
FN void finishRows(const GroupedArguments& a, const ExpertRows& rows, const float (&sums)[16][4], i32 row, ColumnOf columnOf) {
  UNROLL
  for (int j = 0; j < 16; j++) {
    UNROLL
    for (int e = 0; e < 4; e++) {
      const i32 own = rows.first + row + 8 * (e >> 1);
      if (own < rows.end) finishElement(a, rows.expert, own, columnOf(j, e & 1), sums[j][e]);
    }
  }
}

/** c = a W^T: the stack is [experts, n, depth]. */
KERNEL(groupedForward, GroupedArguments, 128, 1, 0) {
  SHARED_ARRAY(uint4, left, kLeftSize);
  SHARED_ARRAY(uint4, right, kRightSize);
  const ExpertRows rows = expertRowsOf(a.offsets, (i32)a.experts, kGroupedRows, (i32)blockIdx.x);
  if (rows.expert < 0) return;
  const u32 n0 = blockIdx.y * kGroupedColumns;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  float sums[16][4] = {};
  ROLLED
  for (u32 k0 = 0; k0 < a.depth; k0 += kGroupedDepth) {
    __syncthreads();
    loadLeft(left, a, rows, k0);
    ROLLED
    for (int i = threadIdx.x; i < kGroupedColumns * 8; i += kGroupedThreads) {
      const int row = i / 8, chunk = i % 8;
      float v[8];
      eightOf(a, rows.expert, n0 + row, a.stackRows, k0 + 8 * chunk, v);
      right[chunkAt<kGroupedDepth>(row, chunk)] =
          make_uint4(packBf16(v[0], v[1]), packBf16(v[2], v[3]), packBf16(v[4], v[5]), packBf16(v[6], v[7]));
    }
    __syncthreads();
    multiplyRows<kGroupedDepth>(sums, left, 16 * warp, right, smaller(kGroupedDepth, (int)(a.depth - k0)));
  }
  finishRows(a, rows, sums, 16 * warp + g, [&](int j, int e) { return n0 + 8 * j + 2 * t + e; });
}

/** c = a W: the stack is [experts, depth, n]. */
KERNEL(groupedBack, GroupedArguments, 128, 1, 0) {
  SHARED_ARRAY(uint4, left, kLeftSize);
  SHARED_ARRAY(uint4, pairs, kPairsSize);
  const ExpertRows rows = expertRowsOf(a.offsets, (i32)a.experts, kGroupedRows, (i32)blockIdx.x);
  if (rows.expert < 0) return;
  const u32 n0 = blockIdx.y * kGroupedColumns;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  float sums[16][4] = {};
  ROLLED
  for (u32 k0 = 0; k0 < a.depth; k0 += kGroupedDepth) {
    __syncthreads();
    loadLeft(left, a, rows, k0);
    ROLLED
    for (int i = threadIdx.x; i < kGroupedDepth / 2 * (kGroupedColumns / 8); i += kGroupedThreads) {
      const int pair = i / (kGroupedColumns / 8), chunk = i % (kGroupedColumns / 8);
      float v[8], w[8];
      eightOf(a, rows.expert, k0 + 2 * pair, a.stackRows, n0 + 8 * chunk, v);
      eightOf(a, rows.expert, k0 + 2 * pair + 1, a.stackRows, n0 + 8 * chunk, w);
      uint4* to = pairs + pair * ((kGroupedColumns + 8) / 4) + 2 * chunk;
      to[0] = make_uint4(packBf16(v[0], w[0]), packBf16(v[1], w[1]), packBf16(v[2], w[2]), packBf16(v[3], w[3]));
      to[1] = make_uint4(packBf16(v[4], w[4]), packBf16(v[5], w[5]), packBf16(v[6], w[6]), packBf16(v[7], w[7]));
    }
    __syncthreads();
    ROLLED
    for (int step = 0; step < kGroupedDepth / 16; step++) {
      // The depth's own order here, which pairs have.
      const u32* words = (const u32*)left;
      u32 fragment[1][4];
      UNROLL
      for (int part = 0; part < 4; part++) {
        const int row = 16 * warp + g + 8 * (part & 1), chunk = 2 * step + (part >> 1);
        fragment[0][part] = words[4 * chunkAt<kGroupedDepth>(row, chunk) + t];
      }
      multiplyPairs<kGroupedColumns, 1, kGroupedColumns>(
          sums, fragment, pairs + 8 * step * ((kGroupedColumns + 8) / 4), 0, kGroupedColumns);
    }
  }
  finishRows(a, rows, sums, 16 * warp + g,
             [&](int j, int e) { return n0 + 32 * (j / 4) + 8 * t + 4 * e + j % 4; });
}
