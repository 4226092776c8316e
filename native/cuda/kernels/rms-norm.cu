// RMSNorm and its backward pass by rows: a block a row, or for short rows a warp a row. The order of a row's sum follows
// from its width alone. The weight's gradient is a sum over rows (columns.cu). Zhang & Sennrich 2019.
#include "../device.h"

struct RmsNormArguments {
  const float* x;
  const float* w;
  float* y;  // may be x
  float* rstd;
  u32 rows, width;
  float epsilon, shift;
};

/** Of rows of up to 1024 a warp takes one, a block of 256 eight. */
constexpr u32 kWarpRows = 8;

template <u32 LANES>
FN float rowSum(float x) {
  return LANES == 32 ? warpSum(x) : blockSum<256>(x);
}

template <u32 LANES>
FN void normRow(const RmsNormArguments& a, u32 row) {
  if (row >= a.rows) return;
  const u32 lane = threadIdx.x % LANES;
  const float* x = a.x + (u64)row * a.width;
  float* y = a.y + (u64)row * a.width;
  float sum = 0;
  for (u32 c = lane; c < a.width; c += LANES) sum = fmaf(x[c], x[c], sum);
  const float rstd = 1.0f / sqrtf(rowSum<LANES>(sum) / (float)a.width + a.epsilon);
  if (lane == 0) a.rstd[row] = rstd;
  for (u32 c = lane; c < a.width; c += LANES) y[c] = x[c] * rstd * (a.shift + a.w[c]);
}

KERNEL(rmsNorm, RmsNormArguments, 256, 1, 0) { normRow<256>(a, blockIdx.x); }
KERNEL(rmsNormShort, RmsNormArguments, 256, 1, 0) { normRow<32>(a, blockIdx.x * kWarpRows + threadIdx.x / 32); }

struct RmsNormBackwardArguments {
  const float* x;
  const float* w;
  const float* rstd;
  const float* dy;
  float* dx;
  u32 rows, width, accumulate;
  float shift;
};

/** With v = shift + w: dx_c = r v_c dy_c - x_c r^3 / width * sum over j of x_j v_j dy_j, written or added. */
template <u32 LANES>
FN void normRowBackward(const RmsNormBackwardArguments& a, u32 row) {
  if (row >= a.rows) return;
  const u32 lane = threadIdx.x % LANES;
  const u64 start = (u64)row * a.width;
  float sum = 0;
  for (u32 c = lane; c < a.width; c += LANES) sum = fmaf(a.x[start + c] * (a.shift + a.w[c]), a.dy[start + c], sum);
  const float r = a.rstd[row], projection = rowSum<LANES>(sum) * r * r * r / (float)a.width;
  for (u32 c = lane; c < a.width; c += LANES) {
    const u64 at = start + c;
    const float slope = r * (a.shift + a.w[c]) * a.dy[at] - a.x[at] * projection;
    a.dx[at] = a.accumulate ? a.dx[at] + slope : slope;
  }
}

KERNEL(rmsNormBackward, RmsNormBackwardArguments, 256, 1, 0) { normRowBackward<256>(a, blockIdx.x); }
KERNEL(rmsNormBackwardShort, RmsNormBackwardArguments, 256, 1, 0) {
  normRowBackward<32>(a, blockIdx.x * kWarpRows + threadIdx.x / 32);
}
