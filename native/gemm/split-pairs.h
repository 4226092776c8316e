// What an instruction set with products of pairs of bf16 (VDPBF16PS) is good for on this processor: Intel's cores make it at
// half the speed of f32 products (88 against 179 GFLOP/s a core, Emerald Rapids), AMD's at twice that speed. Who asks:
// engines.h, for what "auto" takes; vector-dots.h, for products of few rows.
#pragma once

#if defined(__AVX512BF16__)
#include <cpuid.h>

#include <cstdint>

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** Whether two products in f32 are faster than one of pairs of bf16 here, where arithmetic decides. */
inline bool splitsPairs() {
  static const bool intel = [] {
    uint32_t a, b, c, d;
    constexpr uint32_t kGenu = 0x756e6547;  // of GenuineIntel
    return __get_cpuid(0, &a, &b, &c, &d) && b == kGenu;
  }();
  return intel;
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
#endif
