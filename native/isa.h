// Names that keep the objects of one source, compiled once per instruction set, apart. build.mjs defines, for
// every per-set source (gemm/*.cc, kernels/*.cc, bf16/*.cc):
//   LOWRANK_ISA_SUFFIX   Portable | Avx2 | Avx512 | Avx512Bf16 | Amx | Neon
//   LOWRANK_ISA_<SET>    LOWRANK_ISA_PORTABLE, LOWRANK_ISA_AVX2, ... : exactly one of them
// Everything in such a source lies in namespace lowrank::LOWRANK_ISA_NAMESPACE or an anonymous one; only the
// table getters (kernelTableAvx512, linearTableAvx512) are visible outside. Not here: the choice (dispatch.cc).
#pragma once

#ifndef LOWRANK_ISA_SUFFIX
#error "isa.h is for sources that build.mjs compiles once per instruction set"
#endif

#define LOWRANK_CONCAT_TOKENS(a, b) a##b
#define LOWRANK_CONCAT(a, b) LOWRANK_CONCAT_TOKENS(a, b)
#define LOWRANK_QUOTE_TOKEN(a) #a
#define LOWRANK_QUOTE(a) LOWRANK_QUOTE_TOKEN(a)

/** kernelTable -> kernelTableAvx512. */
#define LOWRANK_PER_ISA(name) LOWRANK_CONCAT(name, LOWRANK_ISA_SUFFIX)
/** isaAvx512: the namespace of this object's code. */
#define LOWRANK_ISA_NAMESPACE LOWRANK_CONCAT(isa, LOWRANK_ISA_SUFFIX)
