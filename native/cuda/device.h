// What kernels are written in: one source for the card, where it becomes PTX (build-ptx.py), and for the CPU, where it runs
// under the emulator (emulator/) in tests. Below are a kernel's frame and the primitives whose two sides differ; what is
// the same on both is in arithmetic.h. A kernel is
//
//   struct fillArguments { float* y; u32 n; float value; };
//   KERNEL(fill, fillArguments, 256, 1, 0) { const u32 i = blockIdx.x * 256 + threadIdx.x; if (i < a.n) a.y[i] = a.value; }
//
// KERNEL(name, arguments, threads a block, blocks a processor at least, bytes of dynamic shared memory), all literals. The arguments come by
// value: pointers first (null: absent), then u64 and double, then u32, i32 and float, single or in arrays of fixed length; tools/embed-cuda.mjs reads
// struct and KERNEL line from this text and makes the TypeScript side of the launch from them, so nothing is said twice.
//
// Rules. Blocks are one-dimensional, of whole warps; collectives are reached by whole warps, barriers by whole blocks.
// Products and sums are not contracted (-fmad=false, as in the emulator): write fmaf where one rounding is meant. Sums are
// taken in an order that shapes alone decide: no float atomics. SHARED(T, name) and SHARED_ARRAY(T, name, n) declare static shared memory,
// DYNAMIC_SHARED(T, name) gives the dynamic one the type T.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;
typedef unsigned long long u64;
typedef int i32;
typedef signed char i8;

#ifdef __CUDACC__

#define KERNEL(name, Arguments, threads, minimumBlocks, sharedBytes) \
  extern "C" __global__ void __launch_bounds__(threads, minimumBlocks) name(const __grid_constant__ Arguments a)
#define FN __device__ __forceinline__
#define SHARED(T, name) __shared__ T name
#define SHARED_ARRAY(T, name, count) __shared__ T name[count]
#define DYNAMIC_SHARED(T, name)               \
  extern __shared__ uint4 dynamicSharedRaw[]; \
  T& name = *reinterpret_cast<T*>(dynamicSharedRaw)
#define UNROLL _Pragma("unroll")
#define CONSTANT_TABLE __device__ const
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#endif

/** Address within shared memory, as instructions take it. */
FN u32 sharedAddress(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

/** Asynchronous copies to shared memory: they may be read after waitCopies() and a barrier. Not `valid`: zeros. */
FN void copyAsync16(void* to, const void* from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
FN void copyAsync8(void* to, const void* from, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(sharedAddress(to)), "l"(from), "r"(valid ? 8 : 0) : "memory");
}
FN void copyAsync4(void* to, const void* from, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(sharedAddress(to)), "l"(from), "r"(valid ? 4 : 0) : "memory");
}
FN void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/** Waits until at most N of this thread's committed groups are under way. */
template <int N>
FN void waitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/** Two floats as bf16, rounded to nearest even, `lo` in the low half. */
FN u32 packBf16(float lo, float hi) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
FN u16 toBf16(float x) {
  u16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
  return r;
}
FN u16 toHalf(float x) {
  u16 r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
  return r;
}
FN float fromHalf(u16 x) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x));
  return r;
}
FN u32 packHalf(float lo, float hi) { return toHalf(lo) | static_cast<u32>(toHalf(hi)) << 16; }

/** d += a b, a 16x16 by rows, b 16x8 by columns, fragments as PTX's mma.m16n8k16 has them. */
FN void mmaBf16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/** Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8. */
FN void loadMatrices(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(row))
               : "memory");
}
FN void loadMatricesTransposed(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(row))
               : "memory");
}

#else
#include "emulator/device.h"
#endif

#include "arithmetic.h"
