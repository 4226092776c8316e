// Small blocks come from the C library; blocks of a megabyte or more are mapped, so that freeing them lowers the
// resident size. Freed mappings are first kept for reuse up to a cap: a training step allocates and frees the
// same sizes again and again, and faulting pages in anew would cost more than filling them.
#include "memory.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace lowrank {
namespace {

constexpr size_t kMapFrom = size_t{1} << 20;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSmallUnit = size_t{64} << 10;

std::mutex mutex;
std::atomic<size_t> cached{0};

/** Freed mappings by size. Never destroyed, as threads may outlive statics. */
std::multimap<size_t, void*>& freeBlocks() {
  static auto* const blocks = new std::multimap<size_t, void*>();
  return *blocks;
}

size_t mappedSize(size_t bytes) {
  const size_t unit = bytes >= kHugePage ? kHugePage : kSmallUnit;
  return (bytes + unit - 1) / unit * unit;
}

void* mapBlock(size_t size) {
  const size_t slack = size >= kHugePage ? kHugePage : 0;
  void* raw = mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  if (slack == 0) return raw;
  const uintptr_t start = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = (start + kHugePage - 1) & ~(kHugePage - 1);
  if (aligned > start) munmap(raw, aligned - start);
  const uintptr_t tail = start + slack - aligned;
  if (tail > 0) munmap(reinterpret_cast<void*>(aligned + size), tail);
#ifdef MADV_HUGEPAGE
  madvise(reinterpret_cast<void*>(aligned), size, MADV_HUGEPAGE);
#endif
  return reinterpret_cast<void*>(aligned);
}

void* takeCached(size_t size) {
  std::lock_guard<std::mutex> lock(mutex);
  auto& blocks = freeBlocks();
  const auto found = blocks.find(size);
  if (found == blocks.end()) return nullptr;
  void* address = found->second;
  blocks.erase(found);
  cached -= size;
  return address;
}

}  // namespace

void* allocateBytes(size_t bytes) {
  if (bytes < kMapFrom) {
    void* address = nullptr;
    const size_t rounded = bytes < 64 ? 64 : (bytes + 63) / 64 * 64;
    return posix_memalign(&address, 64, rounded) == 0 ? address : nullptr;
  }
  if (bytes > SIZE_MAX / 2) return nullptr;
  const size_t size = mappedSize(bytes);
  if (void* address = takeCached(size)) return address;
  if (void* address = mapBlock(size)) return address;
  trimCache();
  return mapBlock(size);
}

void freeBytes(void* address, size_t bytes) {
  if (bytes < kMapFrom) return std::free(address);
  const size_t size = mappedSize(bytes);
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (cached + size <= kCacheCapBytes) {
      freeBlocks().emplace(size, address);
      cached += size;
      return;
    }
  }
  munmap(address, size);
}

size_t cachedBytes() { return cached; }

void trimCache() {
  std::lock_guard<std::mutex> lock(mutex);
  for (const auto& [size, address] : freeBlocks()) munmap(address, size);
  freeBlocks().clear();
  cached = 0;
}

namespace {

std::atomic<size_t> scratchTotal{0};

struct ScratchBlock {
  void* address = nullptr;
  size_t bytes = 0;
  ~ScratchBlock() { release(); }
  void release() {
    if (address) freeBytes(address, bytes);
    scratchTotal -= bytes;
    address = nullptr;
    bytes = 0;
  }
};

thread_local ScratchBlock scratchBlocks[static_cast<int>(Slot::Count)];

}  // namespace

void* scratch(Slot slot, size_t bytes) {
  ScratchBlock& block = scratchBlocks[static_cast<int>(slot)];
  if (bytes > block.bytes) {
    block.release();
    const size_t size = bytes < kHugePage ? kHugePage : mappedSize(bytes);
    block.address = allocateBytes(size);
    if (!block.address) throw std::bad_alloc();
    block.bytes = size;
    scratchTotal += size;
  }
  return block.address;
}

size_t scratchBytes() { return scratchTotal; }

}  // namespace lowrank
