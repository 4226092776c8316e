// The table of native kernels, one function a kernel, over raw pointers. Every instruction set fills one table; dispatch.cc
// picks one at run time. The kernels and their arguments are listed in kernels.def; what they mean and the shapes of
// their operands, in src/backend/contract.ts (same names). Not here: the products (gemm/gemm.h), threads (threads.h),
// Node-API (addon.cc).
#pragma once
#include <array>
#include <cstdint>

namespace lowrank {

struct Segment {  // one row of Segments.table
  int32_t qStart, qLength, kStart, kLength;
};

/** Between the values that 4-bit codes stand for, and the code of the value that has so many thresholds below it. */
using Thresholds = std::array<float, 15>;
using CodeByRank = std::array<uint8_t, 16>;

#define LOWRANK_CHOICE(name, ...) enum class name : int { __VA_ARGS__ };
#define LOWRANK_STRUCT(name) struct name {
#define LOWRANK_FIELD(type, name) type name;
#define LOWRANK_END(name) };
#include "kernels.def"

struct KernelTable {
  const char* isa;
#define LOWRANK_KERNEL(name, ...) void (*name)(__VA_ARGS__);
#include "kernels.def"
};

/**
 * Attention by products of bf16 inputs with f32 sums, for sets with such instructions (bf16/). Segments that are too
 * small to gain by it go to `plain`'s attention.
 */
struct Bf16AttentionTable {
#define LOWRANK_PAIRED_KERNEL(name, type) void (*name)(const type& a, const KernelTable& plain);
#include "kernels.def"
};
const Bf16AttentionTable* bf16AttentionTableAvx512Bf16();

/** Compiled from the same sources under other flags. AVX512-BF16 and AMX machines run AVX-512's. */
const KernelTable* kernelTablePortable();
const KernelTable* kernelTableAvx2();
const KernelTable* kernelTableAvx512();
const KernelTable* kernelTableNeon();

}  // namespace lowrank
