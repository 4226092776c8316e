// Rotary position embedding, "rotate half" order: the first 2 half elements of each head turn in pairs (i, i + half), the
// others are copied. Su et al. 2021.
#include "../device.h"

struct RopeArguments {
  const float* x;
  const i32* positions;
  const float* cos;  // [positions there are, half]
  const float* sin;
  float* y;  // may be x
  u32 count;  // tokens * heads
  u32 heads, width, half;
  float direction;
};

/** A thread a pair, or an element beyond the pairs: blockIdx.x = 256 of these. */
KERNEL(rope, RopeArguments, 256, 1, 0) {
  const u32 each = a.width - a.half;
  const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i >= (u64)a.count * each) return;
  const u32 row = (u32)divide(i, each), d = (u32)(i - (u64)row * each);
  const float* x = a.x + (u64)row * a.width;
  float* y = a.y + (u64)row * a.width;
  if (d >= a.half) {
    y[d + a.half] = x[d + a.half];
    return;
  }
  const u64 at = (u64)a.positions[row / a.heads] * a.half + d;
  const float c = a.cos[at], s = a.direction * a.sin[at];
  const float low = x[d], high = x[d + a.half];
  y[d] = low * c - high * s;
  y[d + a.half] = high * c + low * s;
}
