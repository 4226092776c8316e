// Sums of a whole tensor (sum, sumSquares, countNonFinite) in two stages whose order the count alone decides, and clipFactor, which
// makes of such sums what an update multiplies gradients by. Not here: sums by column or row (columns.cu, rms-norm.cu).

constexpr u32 kSum = 0, kSumSquares = 1, kCountNonFinite = 2;

FN float termOf(u32 op, float x) {
  if (op == kSum) return x;
  if (op == kSumSquares) return x * x;
  return isFinite(x) ? 0.0f : 1.0f;
}

/** out[block] = the terms of 8192 elements; the last of two stages has one block and sums over all, whatever their count. */
struct reduceArguments {
  const void* x;
  float* out;
  u64 n;
  u32 type, op, isLast;
};
KERNEL(reduce, reduceArguments, 256, 1, 0) {
  const u64 begin = a.isLast ? 0 : static_cast<u64>(blockIdx.x) * 8192;
  const u64 end = a.isLast ? a.n : least(a.n, begin + 8192);
  float sum = 0;
  for (u64 i = begin + threadIdx.x * 4; i < end; i += 1024) {
    if (a.type == kF32 && i + 4 <= end) {
      const float4 x = *reinterpret_cast<const float4*>(static_cast<const float*>(a.x) + i);
      sum += (termOf(a.op, x.x) + termOf(a.op, x.y)) + (termOf(a.op, x.z) + termOf(a.op, x.w));
    } else {
      for (u64 j = i; j < end && j < i + 4; j++) sum += termOf(a.op, loadAs(a.x, a.type, j));
    }
  }
  sum = blockSum<256>(sum);
  if (threadIdx.x == 0) a.out[blockIdx.x] = sum;
}

struct clipFactorArguments {
  const float* sumSquares;
  const float* losses;
  float* factor;
  u64 n;
  float maxNorm;
};
KERNEL(clipFactor, clipFactorArguments, 256, 1, 0) {
  float bad = 0;
  for (u64 i = threadIdx.x; i < a.n; i += 256) bad += isFinite(a.losses[i]) ? 0.0f : 1.0f;
  bad = blockSum<256>(bad);
  if (threadIdx.x > 0) return;
  const float squares = *a.sumSquares;
  float factor = 1;
  if (a.maxNorm > 0) factor = fminf(1.0f, a.maxNorm / (sqrtf(squares) + 1e-6f));
  const bool held = bad > 0 || !isFinite(squares) || *a.factor < 0;
  *a.factor = held ? -1.0f : factor;
}
