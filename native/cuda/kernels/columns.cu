// Kernels by column, for adapters that scale a layer's outputs and for the gradients of norms' weights; and dropout by
// itself. Sums over rows are taken in two stages, in an order that the shape alone decides.
#include "../device.h"

struct ScaleColumnsArguments {
  const float* x;
  const float* factors;   // [width] or absent
  const float* bias;      // [width] or absent
  const float* residual;  // [rows, width] or absent
  float* y;               // may be x
  u64 count;
  u32 width;
};

/** y = x * factors + bias + residual; a block takes 1024 elements. */
KERNEL(scaleColumns, ScaleColumnsArguments, 256, 1, 0) {
  UNROLL
  for (u32 n = 0; n < 4; n++) {
    const u64 i = (u64)blockIdx.x * 1024 + n * 256 + threadIdx.x;
    if (i >= a.count) continue;
    const u32 c = (u32)(i - divide(i, a.width) * a.width);
    float value = a.x[i];
    if (a.factors) value *= a.factors[c];
    if (a.bias) value += a.bias[c];
    if (a.residual) value += a.residual[i];
    a.y[i] = value;
  }
}

struct CopyColumnsArguments {
  const float* x;
  float* y;
  u64 total;  // rows * count
  u32 count, width, from, targetWidth, to;
};

/** y[t, to + i] = x[t, from + i] for i below count; a block takes 1024 of these. */
KERNEL(copyColumns, CopyColumnsArguments, 256, 1, 0) {
  UNROLL
  for (u32 n = 0; n < 4; n++) {
    const u64 i = (u64)blockIdx.x * 1024 + n * 256 + threadIdx.x;
    if (i >= a.total) continue;
    const u64 row = divide(i, a.count), c = i - row * a.count;
    a.y[row * a.targetWidth + a.to + c] = a.x[row * a.width + a.from + c];
  }
}

struct ColumnSumsArguments {
  const float* x;
  const float* y;     // [rows, width] or absent
  const float* rstd;  // [rows] or absent
  float* partial;     // [blocks of rows, width]
  u32 rows, width, span;
};

/** partial[b] = sums of x * y * rstd over the b-th `span` rows, what is absent 1: blockIdx.x = 128 columns, y = b. */
KERNEL(columnSums, ColumnSumsArguments, 128, 1, 0) {
  const u32 c = blockIdx.x * 128 + threadIdx.x;
  if (c >= a.width) return;
  const u32 start = blockIdx.y * a.span, end = (u32)least(a.rows, (u64)start + a.span);
  float sum = 0;
  for (u32 row = start; row < end; row++) {
    const u64 at = (u64)row * a.width + c;
    float value = a.x[at];
    if (a.y) value *= a.y[at];
    if (a.rstd) value *= a.rstd[row];
    sum += value;
  }
  a.partial[(u64)blockIdx.y * a.width + c] = sum;
}

struct AddColumnSumsArguments {
  const float* partial;
  const float* divisor;  // [width] or absent
  float* out;
  u32 count, width;
};

/** out += the sums of `count` rows of partial, over divisor. */
KERNEL(addColumnSums, AddColumnSumsArguments, 128, 1, 0) {
  const u32 c = blockIdx.x * 128 + threadIdx.x;
  if (c >= a.width) return;
  float sum = 0;
  for (u32 b = 0; b < a.count; b++) sum += a.partial[(u64)b * a.width + c];
  a.out[c] += a.divisor ? sum / a.divisor[c] : sum;
}

struct MagnitudeFactorsArguments {
  const float* magnitude;  // [outputs]
  const float* squares;    // [outputs]
  const float* b;          // [outputs, rank]
  const float* bGram;      // [outputs, rank]
  const float* wa;         // [rank, outputs]
  float* factors;
  float* norms;
  u32 outputs, rank;
  float scale;
};

/** A thread a row of the matrix; contract.ts has the formula. */
KERNEL(magnitudeFactors, MagnitudeFactorsArguments, 128, 1, 0) {
  const u32 o = blockIdx.x * 128 + threadIdx.x;
  if (o >= a.outputs) return;
  float sum = a.squares[o];
  for (u32 r = 0; r < a.rank; r++) {
    const u64 at = (u64)o * a.rank + r;
    const float slope = 2 * a.scale * a.wa[(u64)r * a.outputs + o] + a.scale * a.scale * a.bGram[at];
    sum = fmaf(slope, a.b[at], sum);
  }
  const float norm = sqrtf(sum);
  a.norms[o] = sum > 0 ? norm : 1.0f;
  a.factors[o] = sum > 0 ? a.magnitude[o] / norm : 0.0f;
}

struct DropoutArguments {
  const float* x;
  float* y;  // may be x
  u64 count, seed;
  u64 threshold;  // p * 2^32, rounded down
  u32 stream;
  float keptScale;
};

/** y = x * keptScale where an element's random bits reach the threshold, else 0; a thread takes four elements. */
KERNEL(dropout, DropoutArguments, 256, 1, 0) {
  const u64 block = (u64)blockIdx.x * 256 + threadIdx.x;
  if (4 * block >= a.count) return;
  u32 words[4];
  philox(block, a.stream, a.seed, words);
  UNROLL
  for (u32 e = 0; e < 4; e++) {
    const u64 i = 4 * block + e;
    if (i < a.count) a.y[i] = words[e] >= a.threshold ? a.x[i] * a.keptScale : 0.0f;
  }
}
