// quantize4bit: weights to 4-bit codes and scales, bit for bit as src/quant/codebook.ts: the code of a value is a count of
// thresholds below it. A warp a block of elements. Not here: reading the codes back (the products).

struct quantize4bitArguments {
  const void* x;
  u8* codes;
  float* absmax;
  u64 count;
  u32 blockSize, xType;
  float thresholds[15];
  u32 codeByRank[16];
};

FN u32 codeOf(const quantize4bitArguments& a, float x) {
  u32 rank = 0;
  UNROLL
  for (int k = 0; k < 15; k++) rank += x > a.thresholds[k] ? 1 : 0;
  return a.codeByRank[rank];
}

KERNEL(quantize4bit, quantize4bitArguments, 256, 1, 0) {
  constexpr float kSmallestScale = 1e-38f;
  const u32 lane = threadIdx.x % 32;
  const u64 block = static_cast<u64>(blockIdx.x) * 8 + threadIdx.x / 32;
  const u64 begin = block * a.blockSize;
  if (begin >= a.count) return;
  const u32 n = static_cast<u32>(least(a.blockSize, a.count - begin));
  float most = 0;
  for (u32 i = lane; i < n; i += 32) most = fmaxf(most, fabsf(loadAs(a.x, a.xType, begin + i)));
  most = warpMaximum(most);
  const float scale = fmaxf(most, kSmallestScale);
  const bool whole = n == a.blockSize;
  const float inverse = 1.0f / scale;
  if (lane == 0) a.absmax[block] = whole ? most : scale;
  // The first of a pair goes to the high nibble; one that is missing is a zero.
  for (u32 pair = lane; pair < (n + 1) / 2; pair += 32) {
    u32 byte = 0;
    UNROLL
    for (u32 h = 0; h < 2; h++) {
      const u32 i = 2 * pair + h;
      const float x = i < n ? loadAs(a.x, a.xType, begin + i) : 0.0f;
      byte = byte << 4 | codeOf(a, whole ? x * inverse : x / scale);
    }
    a.codes[begin / 2 + pair] = static_cast<u8>(byte);
  }
}
