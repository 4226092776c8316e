// The ends of products that leave sums in partials (product.h): slices are added in order, then what finishPair does, and
// dropout's mask. productReduce makes one C; productReduceParts cuts the sums of stacked adapters apart.
#include "../device.h"

/** C (+)= mask(sum of slices) + bias + residual, C and residual in rows of ldc. partials [slices, m, n rounded up to even]. */
struct ProductReduceArguments {
  const float* partials;
  float* c;
  const float* bias;
  const float* residual;  // may be c
  u64 seed;
  u32 slices, m, n, ldc, accumulate;
  u32 stream, threshold;  // element i of C is kept iff its word >= threshold; 0: all are
  float keptScale;
};

/** Elements of C that a thread makes at once: those that share a block of random words. */
constexpr int kTogether = 4;

KERNEL(productReduce, ProductReduceArguments, 256, 4, 0) {
  const u64 total = static_cast<u64>(a.m) * a.n, begin = (static_cast<u64>(blockIdx.x) * 256 + threadIdx.x) * kTogether;
  if (begin >= total) return;
  const u64 pitch = (a.n + 1) & ~1u, slice = a.m * pitch;
  u32 words[4] = {};
  if (a.threshold) philox(begin / 4, a.stream, a.seed, words);
  u64 row = total >> 32 ? begin / a.n : static_cast<u32>(begin) / a.n;
  u32 column = static_cast<u32>(begin - row * a.n);
  for (int i = 0; i < kTogether && begin + i < total; i++) {
    const float* from = a.partials + row * pitch + column;
    float value = from[0];
    for (u32 s = 1; s < a.slices; s++) value += from[s * slice];
    if (a.threshold) {
      const u32 low = i & 1 ? words[1] : words[0], high = i & 1 ? words[3] : words[2];
      value = (i & 2 ? high : low) >= a.threshold ? value * a.keptScale : 0.0f;
    }
    if (a.bias) value += a.bias[column];
    const u64 place = row * a.ldc + column;
    if (a.residual) value += a.residual[place];
    if (a.accumulate) value += a.c[place];
    a.c[place] = value;
    if (++column == a.n) column = 0, row++;
  }
}

/**
 * Part p holds columns (or, alongRows, rows) first[p] to first[p] + count[p] - 1 of the sums [m, n]. target[p], f32, takes or
 * adds them; packed[p] takes factor[p] times them as bf16 (or f32), rows of pitch[p] elements, zeros beyond count[p] up to
 * wide[p]. Parts along columns alone are packed.
 */
struct ProductReducePartsArguments {
  const float* partials;
  float* target[4];
  void* packed[4];
  u32 first[4];
  u32 count[4];
  u32 wide[4];
  u32 pitch[4];
  float factor[4];
  u32 slices, m, n, alongRows, accumulate, packedType;
};

KERNEL(productReduceParts, ProductReducePartsArguments, 256, 4, 0) {
  const u32 p = blockIdx.y;
  const u64 pitch = (a.n + 1) & ~1u, slice = a.m * pitch;
  const u32 width = a.alongRows ? a.n : a.wide[p], rows = a.alongRows ? a.count[p] : a.m;
  const u32 at = blockIdx.x * 256 + threadIdx.x, row32 = at / width, column = at - row32 * width;
  if (row32 >= rows) return;
  const u64 row = row32;
  float value = 0;
  const bool inside = a.alongRows || column < a.count[p];
  if (inside) {
    const float* from = a.partials + (a.alongRows ? (row + a.first[p]) * pitch + column : row * pitch + a.first[p] + column);
    value = from[0];
    for (u32 s = 1; s < a.slices; s++) value += from[s * slice];
    if (a.target[p]) {
      float* to = a.target[p] + row * (a.alongRows ? a.n : a.count[p]) + column;
      *to = a.accumulate ? *to + value : value;
    }
  }
  if (a.packed[p]) storeAs(a.packed[p], a.packedType, row * a.pitch[p] + column, value * a.factor[p]);
}
