// Products of a mixture's experts for few tokens (generation), whose weights are read once and nothing waits for a tile to
// fill: c = scale a W_e^T in f32 in every precision. Not here: many tokens (grouped.cu, grouped-exact.cu).
#include "grouped.h"

struct GroupedRowsArguments {
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

/** A block a row and 8 columns, a warp each: blockIdx.x = row, y = columns. A lane has 8 neighbors of every 256 of the depth. */
KERNEL(groupedRows, GroupedRowsArguments, 256, 1, 0) {
  const i32 row = (i32)blockIdx.x, lane = (i32)(threadIdx.x % 32);
  const u32 column = blockIdx.y * 8 + threadIdx.x / 32;
  if (column >= a.n) return;
  i32 expert = -1;
  for (i32 e = 0; e < (i32)a.experts; e += 32) {
    const i32 own = e + lane;
    const bool mine = own < (i32)a.experts && a.offsets[own] <= row && row < a.offsets[own + 1];
    const u32 found = __ballot_sync(kWholeWarp, mine);
    if (found) expert = e + __ffs((int)found) - 1;
  }
  if (expert < 0) return;
  const float* from = a.a + (u64)(a.index ? (u32)a.index[row] : (u32)row) * a.depth;
  float sum = 0;
  ROLLED
  for (u32 k = 8 * lane; k < a.depth; k += 256) {
    float v[8];
    eightOf(a, expert, column, a.stackRows, k, v);
    UNROLL
    for (int e = 0; e < 8; e++) {
      if (k + e < a.depth) sum = fmaf(from[k + e], v[e], sum);
    }
  }
  sum = warpSum(sum);
  if (lane > 0) return;
  float* to = a.c + (u64)row * a.n + column;
  float value = sum * a.scale;
  if (a.bias) value += a.bias[(u64)expert * a.n + column];
  *to = a.accumulate ? *to + value : value;
}
