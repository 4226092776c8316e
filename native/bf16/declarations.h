// Attention with products of bf16 inputs and f32 sums, as table.cc collects it. Maxima, sums, log-sums, deltas and
// accumulators are f32, and so is the scale: what is rounded is q, k, v, dOut, the probabilities and their gradients,
// each once. `plain` is the table whose f32 attention takes the segments that are too small.
#pragma once
#include "../isa.h"
#include "../kernels.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

void attentionInPairs(const AttentionArgs& a, const KernelTable& plain);
void cachedAttentionInPairs(const CachedAttentionArgs& c, const KernelTable& plain);
void attentionBackwardInPairs(const AttentionBackwardArgs& b, const KernelTable& plain);

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
