// The choice of an instruction set at run time. Not here: the kernels themselves, the environment variable's
// reading (src/backend/cpu.ts passes the name).
#pragma once
#include "gemm/gemm.h"
#include "kernels.h"

namespace lowrank {

struct Isa {
  const char* name;  // as LOWRANK_ISA takes it
  const KernelTable* kernels;
  const LinearTable* linear;
  const Bf16AttentionTable* bf16Attention;  // null: attention is f32 in every precision
};

/** Instruction sets that were compiled in and that this processor and system can run, best first. Never empty. */
const Isa* const* availableIsas(int& count);
/** The one of that name among the available ones, or null. */
const Isa* findIsa(const char* name);

}  // namespace lowrank
