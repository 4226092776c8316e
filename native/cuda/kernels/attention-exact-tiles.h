// Tiles of f32 for attention without tensor cores, any width: products of 64 rows by 64 through shared memory, a chunk of
// the width at a time. 256 threads; thread (y, x) has rows y + 16 i and columns x + 16 j of a product. Not here: what is
// done with them (attention-exact.cu, attention-exact-backward.cu).
#pragma once
#include "attention.h"

constexpr int kTile = 64, kExactThreads = 256;
constexpr int kDepth = 32, kDepthPitch = kDepth + 4, kTilePitch = kTile + 4;

struct ExactTiles {
  float operands[2 * kTile * kDepthPitch];  // two chunks of rows, or one of [64][kTilePitch]
  float weights[kTile * kTilePitch];
};
static_assert(sizeof(ExactTiles) == 35840);
static_assert(kTile * kTilePitch <= 2 * kTile * kDepthPitch);

/** Rows of one head: `count` of them, `stride` floats apart, of `width` floats; what lies beyond is zero. */
struct ExactSource {
  const float* from;
  u32 stride;
  int count, width;
  bool aligned;  // to 16 bytes
};

FN ExactSource exactSourceOf(const float* tensor, u32 heads, u32 head, u32 width, int start, int count) {
  const float* from = tensor + ((u64)start * heads + head) * width;
  return {from, heads * width, count, (int)width, ((u64)from & 15) == 0 && width % 4 == 0};
}

/** to[64][pitch] = the source's columns from `column` on, COLUMNS of them. */
template <int COLUMNS>
FN void loadChunk(float* to, int pitch, const ExactSource& s, int column) {
  ROLLED
  for (int i = threadIdx.x; i < kTile * COLUMNS / 4; i += kExactThreads) {
    const int row = i / (COLUMNS / 4), own = i % (COLUMNS / 4) * 4, at = column + own;
    float4 v = make_float4(0, 0, 0, 0);
    if (row < s.count && at < s.width) {
      const float* from = s.from + (u64)row * s.stride + at;
      if (s.aligned) {
        v = *(const float4*)from;
      } else {
        v.x = from[0];
        if (at + 1 < s.width) v.y = from[1];
        if (at + 2 < s.width) v.z = from[2];
        if (at + 3 < s.width) v.w = from[3];
      }
    }
    *(float4*)(to + row * pitch + own) = v;
  }
}

/** product = left right^T, over the whole width. */
FN void multiplyExact(float (&product)[4][4], const ExactSource& left, const ExactSource& right, ExactTiles& s) {
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  float* rights = s.operands + kTile * kDepthPitch;
  UNROLL
  for (int i = 0; i < 4; i++) {
    UNROLL
    for (int j = 0; j < 4; j++) product[i][j] = 0;
  }
  ROLLED
  for (int column = 0; column < left.width; column += kDepth) {
    __syncthreads();
    loadChunk<kDepth>(s.operands, kDepthPitch, left, column);
    loadChunk<kDepth>(rights, kDepthPitch, right, column);
    __syncthreads();
    ROLLED
    for (int d = 0; d < kDepth; d += 4) {
      float4 b[4];
      UNROLL
      for (int j = 0; j < 4; j++) b[j] = *(const float4*)(rights + (x + 16 * j) * kDepthPitch + d);
      UNROLL
      for (int i = 0; i < 4; i++) {
        const float4 a = *(const float4*)(s.operands + (y + 16 * i) * kDepthPitch + d);
        UNROLL
        for (int j = 0; j < 4; j++) {
          product[i][j] = fmaf(a.w, b[j].w, fmaf(a.z, b[j].z, fmaf(a.y, b[j].y, fmaf(a.x, b[j].x, product[i][j]))));
        }
      }
    }
  }
}

/** This thread's part of the tile of weights; a barrier stands between it and those who read them. */
FN void storeWeights(const float (&weights)[4][4], ExactTiles& s) {
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  UNROLL
  for (int i = 0; i < 4; i++) {
    UNROLL
    for (int j = 0; j < 4; j++) s.weights[(y + 16 * i) * kTilePitch + x + 16 * j] = weights[i][j];
  }
}

/** sums += weights times the source's columns from `column` on: sums[c][i][e] is row y + 16 i, column 64 c + 4 x + e. */
template <int CHUNKS>
FN void addProducts(float (&sums)[CHUNKS][4][4], const ExactSource& from, int column, ExactTiles& s) {
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  UNROLL
  for (int c = 0; c < CHUNKS; c++) {
    if (column + kTile * c >= from.width) break;
    __syncthreads();
    loadChunk<kTile>(s.operands, kTilePitch, from, column + kTile * c);
    __syncthreads();
    ROLLED
    for (int key = 0; key < kTile; key += 4) {
      float4 v[4];
      UNROLL
      for (int n = 0; n < 4; n++) v[n] = *(const float4*)(s.operands + (key + n) * kTilePitch + 4 * x);
      UNROLL
      for (int i = 0; i < 4; i++) {
        const float4 w = *(const float4*)(s.weights + (y + 16 * i) * kTilePitch + key);
        const float each[4] = {w.x, w.y, w.z, w.w};
        UNROLL
        for (int n = 0; n < 4; n++) {
          sums[c][i][0] = fmaf(each[n], v[n].x, sums[c][i][0]);
          sums[c][i][1] = fmaf(each[n], v[n].y, sums[c][i][1]);
          sums[c][i][2] = fmaf(each[n], v[n].z, sums[c][i][2]);
          sums[c][i][3] = fmaf(each[n], v[n].w, sums[c][i][3]);
        }
      }
    }
  }
}

/** Writes this thread's sums of row y + 16 i times `factor` to `to`, the head's row. */
template <int CHUNKS>
FN void storeExact(const float (&sums)[CHUNKS][4][4], int i, float factor, float* to, int column, int width) {
  UNROLL
  for (int c = 0; c < CHUNKS; c++) {
    UNROLL
    for (int e = 0; e < 4; e++) {
      const int at = column + kTile * c + 4 * (int)(threadIdx.x % 16) + e;
      if (at < width) to[at] = sums[c][i][e] * factor;
    }
  }
}
