// What attention's kernels share: where a segment's rows lie, which keys a query sees, quick exponentials. Not here: tiles of
// bf16 for tensor cores (attention-tiles.h), tiles of f32 (attention-exact-tiles.h).
//
// Queries are [tq, heads, width], keys and values [tk, kvHeads, width], f32. A block takes a tile of one head of one
// segment: blockIdx.x = segment * tiles + tile, blockIdx.y = head.
#pragma once
#include "../device.h"

struct Segment {
  int qStart, qLength, kStart, kLength;
  int before;  // keys before the first query's own
};

FN Segment segmentAt(const int* table, int index) {
  const int* row = table + 4 * index;
  return {row[0], row[1], row[2], row[3], row[3] - row[1]};
}

/**
 * The row of a segment's key: keys lie one behind the other, or, where `blocks` is there, in blocks of so many tokens, whose
 * list begins at place kStart. Blocks
 * hold whole tiles of keys, and of 64 of them: what holds for a tile's first key holds for all.
 */
FN int keyRowOf(const Segment& segment, int key, const int* blocks, u32 blockTokens) {
  if (!blocks) return segment.kStart + key;
  const int tokens = (int)blockTokens;
  return blocks[segment.kStart + key / tokens] * tokens + key % tokens;
}

FN bool sees(int position, int key, int window) { return key <= position && (window == 0 || key > position - window); }

/** The first key that a query at this position sees. */
FN int firstKeyOf(int position, int window) { return window > 0 && position >= window ? position - window + 1 : 0; }

/** Scores of hidden keys; finite, so that a tile of nothing else leaves no NaN behind. */
constexpr float kHidden = -3.0e38f;
constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

/** Keeps a loop a loop: its body is long, and kernels travel as text. */
#ifdef __CUDACC__
#define ROLLED _Pragma("unroll 1")
#else
#define ROLLED
#endif

/** 2^x with a relative error near 2^-22; results below 2^-126 are 0. */
FN float quickExp2(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0 : y;
#endif
}
/** 1 / x, within 2^-23 of it; 0 of infinity. */
FN float quickReciprocal(float x) {
#ifdef __CUDACC__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1 / x;
#endif
}

FN float laneXor(float x, int mask) { return __shfl_xor_sync(kWholeWarp, x, mask); }
FN int smaller(int a, int b) { return a < b ? a : b; }
FN int larger(int a, int b) { return a > b ? a : b; }
