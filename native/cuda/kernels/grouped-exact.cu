// Products of a mixture's experts in f32, as grouped.cu has them on tensor cores. A block has 64 rows of one expert and 64
// columns: blockIdx.x = tile of rows, y = columns.
#include "grouped.h"

struct GroupedExactArguments {
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

constexpr int kSide = 64, kSteps = 32, kSideThreads = 256;

/** c = a W^T, or with BACK a W. Thread (y, x) has rows y + 16 i and columns x + 16 j. */
template <bool BACK>
FN void groupedExact(const GroupedExactArguments& a) {
  // [depth][row or column], so that a step of the depth is one line of each.
  SHARED_ARRAY(float, left, kSteps * (kSide + 1));
  SHARED_ARRAY(float, right, kSteps * (kSide + 1));
  const ExpertRows rows = expertRowsOf(a.offsets, (i32)a.experts, kSide, (i32)blockIdx.x);
  if (rows.expert < 0) return;
  const u32 n0 = blockIdx.y * kSide;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  float sums[4][4] = {};
  ROLLED
  for (u32 k0 = 0; k0 < a.depth; k0 += kSteps) {
    __syncthreads();
    ROLLED
    for (int i = threadIdx.x; i < kSide * kSteps; i += kSideThreads) {
      const int row = i / kSteps, k = i % kSteps;
      float value = 0;
      if (rows.first + row < rows.end && k0 + k < a.depth) {
        const u32 source = a.index ? (u32)a.index[rows.first + row] : (u32)(rows.first + row);
        value = a.a[(u64)source * a.depth + k0 + k];
      }
      left[k * (kSide + 1) + row] = value;
    }
    {
      float v[8];
      const int line = threadIdx.x / (BACK ? 8 : 4), chunk = threadIdx.x % (BACK ? 8 : 4);
      if (BACK) eightOf(a, rows.expert, k0 + line, a.stackRows, n0 + 8 * chunk, v);
      else eightOf(a, rows.expert, n0 + line, a.stackRows, k0 + 8 * chunk, v);
      UNROLL
      for (int e = 0; e < 8; e++) right[BACK ? line * (kSide + 1) + 8 * chunk + e : (8 * chunk + e) * (kSide + 1) + line] = v[e];
    }
    __syncthreads();
    _Pragma("unroll 4")
    for (int k = 0; k < kSteps; k++) {
      float b[4];
      UNROLL
      for (int j = 0; j < 4; j++) b[j] = right[k * (kSide + 1) + x + 16 * j];
      UNROLL
      for (int i = 0; i < 4; i++) {
        const float value = left[k * (kSide + 1) + y + 16 * i];
        UNROLL
        for (int j = 0; j < 4; j++) sums[i][j] = fmaf(value, b[j], sums[i][j]);
      }
    }
  }
  UNROLL
  for (int i = 0; i < 4; i++) {
    const i32 row = rows.first + y + 16 * i;
    if (row >= rows.end) continue;
    UNROLL
    for (int j = 0; j < 4; j++) {
      const u32 column = n0 + x + 16 * j;
      if (column >= a.n) continue;
      float* to = a.c + (u64)row * a.n + column;
      float value = sums[i][j] * a.scale;
      if (a.bias) value += a.bias[(u64)rows.expert * a.n + column];
      *to = a.accumulate ? *to + value : value;
    }
  }
}

KERNEL(groupedExactForward, GroupedExactArguments, 256, 1, 0) { groupedExact<false>(a); }
KERNEL(groupedExactBack, GroupedExactArguments, 256, 1, 0) { groupedExact<true>(a); }
