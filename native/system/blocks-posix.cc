// blocks.h by mmap.
#include "system/blocks.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

namespace lowrank {
namespace {

/** Larger blocks get their pages at once: pages promised and not yet touched would be missing from what is available. */
[[maybe_unused]] constexpr size_t kPopulateFrom = size_t{32} << 20;

}  // namespace

void* allocateAligned(size_t bytes) {
  void* address = nullptr;
  return posix_memalign(&address, 64, bytes) == 0 ? address : nullptr;
}

void freeAligned(void* address) { std::free(address); }

void* mapPages(size_t bytes) {
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* raw = mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  if (slack == 0) return raw;
  const uintptr_t start = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = (start + kHugePage - 1) & ~(kHugePage - 1);
  if (aligned > start) munmap(raw, aligned - start);
  const uintptr_t tail = start + slack - aligned;
  if (tail > 0) munmap(reinterpret_cast<void*>(aligned + bytes), tail);
#ifdef MADV_HUGEPAGE
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
#endif
#ifdef MADV_POPULATE_WRITE
  if (bytes >= kPopulateFrom) madvise(reinterpret_cast<void*>(aligned), bytes, MADV_POPULATE_WRITE);
#endif
  return reinterpret_cast<void*>(aligned);
}

void unmapPages(void* address, size_t bytes) { munmap(address, bytes); }

}  // namespace lowrank
