// The CPU's side of the primitives of ../device.h, for kernels that run under the emulator: what a card does in one instruction is
// spelt out here, collectives with the warp's other lanes. Included by ../device.h only; tests alone use it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "fibers.h"

#define KERNEL(name, Arguments, threads, minimumBlocks, sharedBytes)                             \
  static void name(const Arguments& a);                                                          \
  static ::emulator::Registration registration_##name(                                           \
      #name, sizeof(Arguments), threads, sharedBytes,                                            \
      [](const void* arguments) { name(*static_cast<const Arguments*>(arguments)); });           \
  static void name(const Arguments& a)
#define FN static inline
#define SHARED(T, name)               \
  static const char key_##name = 0;   \
  T& name = *static_cast<T*>(::emulator::sharedVariable(&key_##name, sizeof(T)))
#define SHARED_ARRAY(T, name, count)  \
  static const char key_##name = 0;   \
  T(&name)[count] = *static_cast<T(*)[count]>(::emulator::sharedVariable(&key_##name, sizeof(T[count])))
#define DYNAMIC_SHARED(T, name) T& name = *static_cast<T*>(::emulator::dynamicShared())
#define UNROLL
#define CONSTANT_TABLE static const
#define __restrict__ __restrict
#define __device__
#define __forceinline__ inline

#define threadIdx (::emulator::self->thread)
#define blockIdx (::emulator::blockIndex)
#define blockDim (::emulator::blockSize)
#define gridDim (::emulator::gridSize)

struct alignas(8) uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) int2 { i32 x, y; };
struct alignas(16) int4 { i32 x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
FN uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
FN uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
FN int4 make_int4(i32 x, i32 y, i32 z, i32 w) { return {x, y, z, w}; }
FN float2 make_float2(float x, float y) { return {x, y}; }
FN float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <typename To, typename From>
FN To bitsAs(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
FN float __uint_as_float(u32 x) { return bitsAs<float>(x); }
FN u32 __float_as_uint(float x) { return bitsAs<u32>(x); }
FN float __int_as_float(i32 x) { return bitsAs<float>(x); }
FN i32 __float_as_int(float x) { return bitsAs<i32>(x); }
// Macros, as the C library has functions of its own behind these names.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
FN float __fdividef(float x, float y) { return x / y; }
FN float rsqrtf(float x) { return 1.0f / sqrtf(x); }
FN float __fmul_rn(float x, float y) { return x * y; }
FN float __fadd_rn(float x, float y) { return x + y; }
FN float __fdiv_rn(float x, float y) { return x / y; }
FN float __fsqrt_rn(float x) { return sqrtf(x); }
FN u32 __umulhi(u32 x, u32 y) { return static_cast<u32>(static_cast<u64>(x) * y >> 32); }
FN int __popc(u32 x) { return __builtin_popcount(x); }
FN int __clz(u32 x) { return x ? __builtin_clz(x) : 32; }
FN int __ffs(u32 x) { return __builtin_ffs(static_cast<int>(x)); }
/** Four bytes of the eight in (y, x), chosen by the nibbles of `select`. */
FN u32 __byte_perm(u32 x, u32 y, u32 select) {
  const u64 bytes = static_cast<u64>(y) << 32 | x;
  u32 r = 0;
  for (int i = 0; i < 4; i++) r |= static_cast<u32>(bytes >> (8 * (select >> (4 * i) & 7)) & 0xff) << (8 * i);
  return r;
}
template <typename T>
FN T __ldg(const T* p) {
  return *p;
}
FN int min(int a, int b) { return a < b ? a : b; }
FN int max(int a, int b) { return a > b ? a : b; }
FN u32 min(u32 a, u32 b) { return a < b ? a : b; }
FN u32 max(u32 a, u32 b) { return a > b ? a : b; }

FN void __syncthreads() { ::emulator::barrier(); }
FN void checkMask(u32 mask) {
  if (mask != 0xffffffffu) ::emulator::fail("names a part of its warp");
}
FN void __syncwarp(u32 mask = 0xffffffffu) {
  checkMask(mask);
  ::emulator::exchange("syncs its warp", nullptr, 0);
}
FN int laneOfThread() { return static_cast<int>(threadIdx.x % 32); }

template <typename T>
FN T shuffle(const char* what, T value, int from) {
  static_assert(sizeof(T) % 4 == 0 && sizeof(T) <= 32);
  u32 words[sizeof(T) / 4];
  std::memcpy(words, &value, sizeof value);
  const auto all = ::emulator::exchange(what, words, sizeof(T) / 4);
  std::memcpy(&value, all.lanes[from].words[all.turn], sizeof value);
  return value;
}
template <typename T>
FN T __shfl_xor_sync(u32 mask, T value, int distance, int = 32) {
  checkMask(mask);
  return shuffle("shuffles by xor", value, laneOfThread() ^ distance);
}
template <typename T>
FN T __shfl_sync(u32 mask, T value, int from, int width = 32) {
  checkMask(mask);
  return shuffle("shuffles", value, laneOfThread() / width * width + from % width);
}
template <typename T>
FN T __shfl_down_sync(u32 mask, T value, int distance, int width = 32) {
  checkMask(mask);
  const int lane = laneOfThread();
  return shuffle("shuffles down", value, lane % width + distance < width ? lane + distance : lane);
}
template <typename T>
FN T __shfl_up_sync(u32 mask, T value, int distance, int width = 32) {
  checkMask(mask);
  const int lane = laneOfThread();
  return shuffle("shuffles up", value, lane % width >= distance ? lane - distance : lane);
}
FN u32 __ballot_sync(u32 mask, bool value) {
  checkMask(mask);
  const u32 word = value;
  const auto all = ::emulator::exchange("votes", &word, 1);
  u32 votes = 0;
  for (int l = 0; l < 32; l++) votes |= all.word(l) << l;
  return votes;
}
FN bool __any_sync(u32 mask, bool value) { return __ballot_sync(mask, value) != 0; }
FN bool __all_sync(u32 mask, bool value) { return __ballot_sync(mask, value) == 0xffffffffu; }

FN u32 atomicAdd(u32* at, u32 value) {
  const u32 before = *at;
  *at += value;
  return before;
}
FN i32 atomicMax(i32* at, i32 value) {
  const i32 before = *at;
  if (value > before) *at = value;
  return before;
}

FN void noteCopy(void* to, const void* from, u32 bytes, bool valid) {
  if (reinterpret_cast<uintptr_t>(to) % bytes || (valid && reinterpret_cast<uintptr_t>(from) % bytes))
    ::emulator::fail("copies between addresses that are not aligned");
  ::emulator::Fiber& me = *::emulator::self;
  me.copies.push_back({to, valid ? from : nullptr, bytes, me.group});
}
FN void copyAsync16(void* to, const void* from, bool valid = true) { noteCopy(to, from, 16, valid); }
FN void copyAsync8(void* to, const void* from, bool valid = true) { noteCopy(to, from, 8, valid); }
FN void copyAsync4(void* to, const void* from, bool valid = true) { noteCopy(to, from, 4, valid); }
FN void commitCopies() { ::emulator::self->group++; }
template <int N>
FN void waitCopies() {
  ::emulator::Fiber& me = *::emulator::self;
  std::size_t kept = 0;
  for (const auto& copy : me.copies) {
    if (copy.group + N >= me.group) {
      me.copies[kept++] = copy;
    } else if (copy.from) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      std::memset(copy.to, 0, copy.bytes);
    }
  }
  me.copies.resize(kept);
}

FN u16 toBf16(float x) {
  const u32 bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<u16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
FN u32 packBf16(float lo, float hi) { return toBf16(lo) | static_cast<u32>(toBf16(hi)) << 16; }
FN float fromHalf(u16 x) {
  const u32 sign = static_cast<u32>(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
  const float tiny = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -tiny : tiny;
}
/** Rounded to nearest even; too large a number becomes infinite. */
FN u16 toHalf(float x) {
  const u32 bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return static_cast<u16>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Below the least normal number: a sum with 0.5 rounds at the place of the last bit.
    const float sum = __uint_as_float(magnitude) + 0.5f;
    return static_cast<u16>(sign | (__float_as_uint(sum) - 0x3f000000u));
  }
  return static_cast<u16>(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13);
}
FN u32 packHalf(float lo, float hi) { return toHalf(lo) | static_cast<u32>(toHalf(hi)) << 16; }

FN void mmaBf16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  const u32 words[6] = {a0, a1, a2, a3, b0, b1};
  const auto all = ::emulator::exchange("multiplies 16x8x16 in bf16", words, 6);
  const auto half = [](u32 pair, int high) { return __uint_as_float(high ? pair & 0xffff0000u : pair << 16); };
  const int lane = laneOfThread();
  for (int e = 0; e < 4; e++) {
    const int m = lane / 4, n = 2 * (lane % 4) + (e & 1), lower = e >> 1;
    float sum = 0;
    for (int k = 0; k < 16; k++) {
      const int t = k % 8 / 2, upper = k / 8;
      sum += half(all.word(4 * m + t, lower + 2 * upper), k & 1) * half(all.word(4 * n + t, 4 + upper), k & 1);
    }
    d[e] += sum;
  }
}

FN void loadMatricesAs(const char* what, u32 (&r)[4], const void* row, bool transposed) {
  if (reinterpret_cast<uintptr_t>(row) % 16) ::emulator::fail("loads a row of a matrix that is not aligned");
  u32 words[2];
  std::memcpy(words, &row, sizeof row);
  const auto all = ::emulator::exchange(what, words, 2);
  const int lane = laneOfThread();
  for (int matrix = 0; matrix < 4; matrix++) {
    u16 pair[2];
    for (int i = 0; i < 2; i++) {
      const int line = transposed ? 2 * (lane % 4) + i : lane / 4, column = transposed ? lane / 4 : 2 * (lane % 4) + i;
      const u16* from;
      std::memcpy(&from, all.lanes[8 * matrix + line].words[all.turn], sizeof from);
      pair[i] = from[column];
    }
    r[matrix] = pair[0] | static_cast<u32>(pair[1]) << 16;
  }
}
FN void loadMatrices(u32 (&r)[4], const void* row) { loadMatricesAs("loads matrices", r, row, false); }
FN void loadMatricesTransposed(u32 (&r)[4], const void* row) {
  loadMatricesAs("loads matrices transposed", r, row, true);
}
