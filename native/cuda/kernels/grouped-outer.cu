// Gradients of a mixture's weights, in f32: c_e += scale a^T b over expert e's rows, and the sums of a's columns for its
// biases. Not here: products by rows (grouped.cu).
#include "../device.h"

struct GroupedOuterArguments {
  const float* a;      // [rows, m]
  const float* b;      // [rows, n], or [tokens, n] with an index
  const i32* index;    // [rows] or absent
  const i32* offsets;  // [experts + 1]
  float* c;            // [experts, m, n]
  u32 m, n, across;    // across: blocks of 64 columns
  float scale;
};

constexpr int kOuterSide = 64, kOuterRows = 16, kOuterPitch = 68;

/** blockIdx: x = expert, y = 64 rows of c * across + 64 columns. Thread (y, x) has rows 4 y + i and columns 4 x + j. */
KERNEL(groupedOuter, GroupedOuterArguments, 256, 1, 0) {
  SHARED_ARRAY(float4, left, kOuterRows * kOuterPitch / 4);
  SHARED_ARRAY(float4, right, kOuterRows * kOuterPitch / 4);
  const u32 m0 = blockIdx.y / a.across * kOuterSide, n0 = blockIdx.y % a.across * kOuterSide;
  const i32 first = a.offsets[blockIdx.x], end = a.offsets[blockIdx.x + 1];
  if (first == end) return;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  float sums[4][4] = {};
  _Pragma("unroll 1")
  for (i32 start = first; start < end; start += kOuterRows) {
    __syncthreads();
    _Pragma("unroll 1")
    for (int i = threadIdx.x; i < kOuterRows * kOuterSide; i += 256) {
      const int row = i / kOuterSide, at = i % kOuterSide;
      const bool there = start + row < end;
      const u64 own = (u64)(start + row);
      float value = 0, other = 0;
      if (there && m0 + at < a.m) value = a.a[own * a.m + m0 + at];
      if (there && n0 + at < a.n) other = a.b[(a.index ? (u64)a.index[own] : own) * a.n + n0 + at];
      ((float*)left)[row * kOuterPitch + at] = value;
      ((float*)right)[row * kOuterPitch + at] = other;
    }
    __syncthreads();
    _Pragma("unroll 4")
    for (int row = 0; row < kOuterRows; row++) {
      const float4 l = left[row * (kOuterPitch / 4) + y], r = right[row * (kOuterPitch / 4) + x];
      const float ls[4] = {l.x, l.y, l.z, l.w}, rs[4] = {r.x, r.y, r.z, r.w};
      UNROLL
      for (int i = 0; i < 4; i++) {
        UNROLL
        for (int j = 0; j < 4; j++) sums[i][j] = fmaf(ls[i], rs[j], sums[i][j]);
      }
    }
  }
  UNROLL
  for (int i = 0; i < 4; i++) {
    UNROLL
    for (int j = 0; j < 4; j++) {
      const u32 row = m0 + 4 * y + i, column = n0 + 4 * x + j;
      if (row >= a.m || column >= a.n) continue;
      float* to = a.c + ((u64)blockIdx.x * a.m + row) * a.n + column;
      *to = fmaf(a.scale, sums[i][j], *to);
    }
  }
}

struct GroupedColumnSumsArguments {
  const float* a;      // [rows, m]
  const i32* offsets;
  float* c;  // [experts, m]
  u32 m;
};

/** c_e += the sums of a's columns over expert e's rows: blockIdx.x = expert, y = 128 columns. */
KERNEL(groupedColumnSums, GroupedColumnSumsArguments, 128, 1, 0) {
  const u32 column = blockIdx.y * 128 + threadIdx.x;
  if (column >= a.m) return;
  float sum = 0;
  for (i32 row = a.offsets[blockIdx.x]; row < a.offsets[blockIdx.x + 1]; row++) sum += a.a[(u64)row * a.m + column];
  a.c[(u64)blockIdx.x * a.m + column] += sum;
}
