// Eight steps of depth of a 6 x 16 tile of f32, written out: sums in 12 of AVX2's 16 registers, two for columns and two
// for what is broadcast. From the plain loop compilers move sums about, some of them through memory. Not here: the tile
// around it (engine-f32.h).
#pragma once
#include "vector.h"

#if defined(__AVX2__) && !defined(__AVX512F__)

namespace lowrank::LOWRANK_ISA_NAMESPACE {

// Operands: %[a] and %[d] rows 0 and 3 of the left side, %[s] bytes from row to row; %[b] 16 columns a step.
#define LOWRANK_ROWS(first, second, x0, x1, y0, y1)                                             \
  first "%%ymm14\n\t" second "%%ymm15\n\t"                                                       \
  "vfmadd231ps %%ymm12, %%ymm14, %[" x0 "]\n\tvfmadd231ps %%ymm13, %%ymm14, %[" x1 "]\n\t"       \
  "vfmadd231ps %%ymm12, %%ymm15, %[" y0 "]\n\tvfmadd231ps %%ymm13, %%ymm15, %[" y1 "]\n\t"
#define LOWRANK_STEP(i)                                                                                  \
  "vmovups " #i "*64(%[b]), %%ymm12\n\tvmovups " #i "*64+32(%[b]), %%ymm13\n\t"                            \
  LOWRANK_ROWS("vbroadcastss " #i "*4(%[a]), ", "vbroadcastss " #i "*4(%[a],%[s]), ", "a0", "a1", "b0", "b1") \
  LOWRANK_ROWS("vbroadcastss " #i "*4(%[a],%[s],2), ", "vbroadcastss " #i "*4(%[d]), ", "c0", "c1", "d0", "d1") \
  LOWRANK_ROWS("vbroadcastss " #i "*4(%[d],%[s]), ", "vbroadcastss " #i "*4(%[d],%[s],2), ", "e0", "e1", "f0", "f1")

/** sums += a [6, 8] x b [8, 16]; rows of a lie `stride` elements apart. */
inline __attribute__((always_inline)) void eightSteps(const float* a, int64_t stride, const float* b,
                                                      Vf (&sums)[6][2]) {
  asm volatile(
      LOWRANK_STEP(0) LOWRANK_STEP(1) LOWRANK_STEP(2) LOWRANK_STEP(3)  //
      LOWRANK_STEP(4) LOWRANK_STEP(5) LOWRANK_STEP(6) LOWRANK_STEP(7)
      : [a0] "+x"(sums[0][0]), [a1] "+x"(sums[0][1]), [b0] "+x"(sums[1][0]), [b1] "+x"(sums[1][1]),
        [c0] "+x"(sums[2][0]), [c1] "+x"(sums[2][1]), [d0] "+x"(sums[3][0]), [d1] "+x"(sums[3][1]),
        [e0] "+x"(sums[4][0]), [e1] "+x"(sums[4][1]), [f0] "+x"(sums[5][0]), [f1] "+x"(sums[5][1])
      : [a] "r"(a), [d] "r"(a + 3 * stride), [s] "r"(stride * 4), [b] "r"(b)
      : "ymm12", "ymm13", "ymm14", "ymm15", "memory");
}

#undef LOWRANK_STEP
#undef LOWRANK_ROWS

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE

#endif
