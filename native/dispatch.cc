// Asks processor and system what they can run, and lists the tables compiled for it, best first.
#include "dispatch.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace lowrank {
namespace {

struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false, amx = false;
};

#if defined(__x86_64__)

/** Register state that the system saves at a context switch (XCR0). */
uint64_t savedState() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

/** Linux hands the 8 KB of tile registers only to processes that ask. */
bool requestTiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, asm/prctl.h
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

/** Bits as in Intel's Software Developer's Manual, volume 2, CPUID. */
Features detect() {
  Features found;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool fma = c >> 12 & 1, saves = c >> 27 & 1, avx = c >> 28 & 1, f16c = c >> 29 & 1;
  if (!saves || !avx || !fma || !f16c) return found;
  const uint64_t state = savedState();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const uint32_t leaves = a, ebx = b, edx = d;
  found.avx2 = (ebx >> 5 & 1) && (state & 0x6) == 0x6;
  const uint32_t wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  found.avx512 = found.avx2 && (ebx & wanted) == wanted && (state & 0xe6) == 0xe6;
  if (found.avx512 && leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) found.avx512bf16 = a >> 5 & 1;
  const bool tiles = (edx >> 22 & 1) && (edx >> 24 & 1) && (state & 0x60000) == 0x60000;
  found.amx = found.avx512bf16 && tiles && requestTiles();
  return found;
}

#else

Features detect() { return {}; }

#endif

#ifdef LOWRANK_HAVE_AVX512BF16
#define LOWRANK_BF16_ATTENTION bf16AttentionTableAvx512Bf16()
#endif

struct List {
  Isa entries[6];
  const Isa* pointers[6];
  int count = 0;

  void add(const char* name, const KernelTable* kernels, const LinearTable* linear,
           const Bf16AttentionTable* bf16Attention = nullptr) {
    entries[count] = {name, kernels, linear, bf16Attention};
    pointers[count] = &entries[count];
    count++;
  }

  List() {
    [[maybe_unused]] const Features features = detect();
    // A compiler that knows AMX or AVX512-BF16 knows AVX-512, whose kernels serve all three; AMX machines also run
    // AVX512-BF16's attention.
#ifdef LOWRANK_HAVE_AMX
    if (features.amx) add("amx", kernelTableAvx512(), linearTableAmx(), LOWRANK_BF16_ATTENTION);
#endif
#ifdef LOWRANK_HAVE_AVX512BF16
    if (features.avx512bf16) {
      add("avx512bf16", kernelTableAvx512(), linearTableAvx512Bf16(), LOWRANK_BF16_ATTENTION);
    }
#endif
#ifdef LOWRANK_HAVE_AVX512
    if (features.avx512) add("avx512", kernelTableAvx512(), linearTableAvx512());
#endif
#ifdef LOWRANK_HAVE_AVX2
    if (features.avx2) add("avx2", kernelTableAvx2(), linearTableAvx2());
#endif
#ifdef LOWRANK_HAVE_NEON
    add("neon", kernelTableNeon(), linearTableNeon());
#endif
    add("portable", kernelTablePortable(), linearTablePortable());
  }
};

const List& list() {
  static const List instance;
  return instance;
}

}  // namespace

const Isa* const* availableIsas(int& count) {
  count = list().count;
  return list().pointers;
}

const Isa* findIsa(const char* name) {
  for (int i = 0; i < list().count; i++) {
    if (std::strcmp(list().entries[i].name, name) == 0) return list().pointers[i];
  }
  return nullptr;
}

}  // namespace lowrank
