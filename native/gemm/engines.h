// Which engine computes which precision on this instruction set.
#pragma once
#include "engine-amx.h"
#include "engine-bf16.h"
#include "engine-f32.h"
#include "gemm.h"
#include "split-pairs.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

using PlainEngine = F32Engine<F32>;
#if defined(LOWRANK_ISA_AMX)
using HalfEngine = AmxEngine;
inline bool bf16IsFaster() { return true; }
#elif defined(LOWRANK_ISA_AVX512BF16)
using HalfEngine = Bf16Engine;
inline bool bf16IsFaster() { return !splitsPairs(); }
#else
using HalfEngine = F32Engine<RoundedF32>;
inline bool bf16IsFaster() { return false; }
#endif

/**
 * Products of up to this many rows read each weight once, without packing (vector.cc); `few` in src/backend/cpu/device.ts.
 * At 64 rows both ways are as fast.
 */
constexpr int64_t kMostVectorRows = 64;

void linearVectors(Precision precision, const float* x, int64_t t, int64_t in, const LinearPart* parts, int64_t count);
void linearForward(Precision precision, const float* x, int64_t t, int64_t in, const LinearPart* parts, int64_t count);
void linearBackward(Precision precision, const float* x, int64_t t, int64_t in, const LinearGradPart* parts,
                    int64_t count, float* dx, bool accumulate);

/** As linearForward, but always by packed products: the bits of a row do not depend on how many there are. */
void linearPacked(Precision precision, const float* x, int64_t t, int64_t in, const LinearPart* parts, int64_t count);
void groupedForward(Precision precision, const float* x, const GroupedRows& rows, const GroupedPart& part);
void groupedBackward(Precision precision, const float* x, const GroupedRows& rows, const GroupedPart& part);

/** A stored f32 matrix as a weight. */
inline Weight matrixOf(const float* data, int64_t rows, int64_t cols) {
  Weight weight{};
  weight.kind = Weight::Kind::F32;
  weight.rows = rows;
  weight.cols = cols;
  weight.data = data;
  return weight;
}

/** Packed activations of one call stay below this; longer batches go through in stretches of rows. */
constexpr int64_t kMostPackedBytes = int64_t{64} << 20;

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
