// Arithmetic of kernels that is the same on the card and in the emulator: 16-bit floats, sums over warps and blocks in a
// fixed order, random bits. Included by device.h, which has what differs.
#pragma once

constexpr u32 kWholeWarp = 0xffffffffu;

FN u64 least(u64 a, u64 b) { return a < b ? a : b; }
FN u64 largest(u64 a, u64 b) { return a > b ? a : b; }
FN u64 divideUp(u64 a, u64 b) { return (a + b - 1) / b; }

FN float fromBf16(u16 x) { return __uint_as_float(static_cast<u32>(x) << 16); }
/** The low, the high half of a pair. */
FN float lowBf16(u32 pair) { return __uint_as_float(pair << 16); }
FN float highBf16(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

/** i / by, in 32 bits where i allows: 64-bit divisions are long. */
FN u64 divide(u64 i, u32 by) { return i >> 32 ? i / by : static_cast<u32>(i) / by; }

FN float notANumber() { return __uint_as_float(0x7fc00000u); }
FN bool isFinite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

/** Codes of dtypes in arguments, as dtypeCodes in src/backend/operand-check.ts. */
constexpr u32 kF32 = 0, kBf16 = 1, kF16 = 2, kF64 = 3;

/** Element i of a tensor of any of the types that files hold weights in. */
FN float loadAs(const void* x, u32 type, u64 i) {
  if (type == kF32) return static_cast<const float*>(x)[i];
  if (type == kBf16) return fromBf16(static_cast<const u16*>(x)[i]);
  if (type == kF16) return fromHalf(static_cast<const u16*>(x)[i]);
  return static_cast<float>(static_cast<const double*>(x)[i]);
}
FN void storeAs(void* y, u32 type, u64 i, float value) {
  if (type == kF32) static_cast<float*>(y)[i] = value;
  else if (type == kBf16) static_cast<u16*>(y)[i] = toBf16(value);
  else if (type == kF16) static_cast<u16*>(y)[i] = toHalf(value);
  else static_cast<double*>(y)[i] = value;
}

/** The same sum in every lane, of the same order whatever the lane. */
FN float warpSum(float x) {
  UNROLL
  for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(kWholeWarp, x, d);
  return x;
}
FN float warpMaximum(float x) {
  UNROLL
  for (int d = 16; d > 0; d >>= 1) x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, d));
  return x;
}

/** The sum over a block of THREADS, in every thread. */
template <int THREADS>
FN float blockSum(float x) {
  SHARED_ARRAY(float, parts, 32);
  x = warpSum(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = threadIdx.x % 32 < THREADS / 32 ? parts[threadIdx.x % 32] : 0.0f;
  sum = warpSum(sum);
  __syncthreads();
  return sum;
}
template <int THREADS>
FN float blockMaximum(float x) {
  SHARED_ARRAY(float, parts, 32);
  x = warpMaximum(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float most = threadIdx.x % 32 < THREADS / 32 ? parts[threadIdx.x % 32] : -INFINITY;
  most = warpMaximum(most);
  __syncthreads();
  return most;
}

/** The four random words of a block of elements 4 block ... 4 block + 3: Philox 4x32-10 (Salmon et al. 2011), as src/util/rng.ts. */
FN void philox(u64 block, u32 stream, u64 seed, u32 (&out)[4]) {
  u32 c0 = static_cast<u32>(block), c1 = static_cast<u32>(block >> 32), c2 = stream, c3 = 0;
  u32 k0 = static_cast<u32>(seed), k1 = static_cast<u32>(seed >> 32);
  UNROLL
  for (int round = 0; round < 10; round++) {
    const u64 product0 = static_cast<u64>(0xd2511f53u) * c0, product1 = static_cast<u64>(0xcd9e8d57u) * c2;
    c0 = static_cast<u32>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<u32>(product1);
    c2 = static_cast<u32>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<u32>(product0);
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}
/** The random word of one element. */
FN u32 randomBits(u64 seed, u32 stream, u64 index) {
  u32 words[4];
  philox(index / 4, stream, seed, words);
  const u32 low = index & 1 ? words[1] : words[0], high = index & 1 ? words[3] : words[2];
  return index & 2 ? high : low;
}
