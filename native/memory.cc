// Small blocks come from the C library; blocks of a megabyte or more are mapped. Freed mappings are kept for reuse,
// because a training step allocates and frees the same sizes again and again and faulting pages in anew costs more
// than filling them. What is in use and what is kept never exceed, together, the most that was ever in use at once by
// more than an eighth, which sizes that differ a little from step to step need: the process is hardly larger than it had
// to be.
#include "memory.h"

#include <atomic>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "system/available.h"
#include "system/blocks.h"

namespace lowrank {
namespace {

#ifdef __SANITIZE_ADDRESS__
// Nearly every block comes from the C library and ends where its bytes end, so that the sanitizer guards its edges.
constexpr size_t kMapFrom = size_t{1} << 30;
constexpr size_t kUnit = 1;
constexpr size_t kLeastScratch = 64;
#else
constexpr size_t kMapFrom = size_t{1} << 20;
constexpr size_t kUnit = 64;
constexpr size_t kLeastScratch = size_t{2} << 20;
#endif
constexpr size_t kSmallUnit = size_t{64} << 10;

/** A kept block serves a request when it is at most this factor larger. */
constexpr double kSlack = 1.25;

/** Left free for what is not allocated here: JavaScript's heap, the system's own tables. */
constexpr size_t kReserve = size_t{64} << 20;
/** After so many bytes of new mappings the system is asked anew whether there is room. */
constexpr size_t kAskEvery = size_t{16} << 20;

std::mutex mutex;
std::atomic<size_t> cached{0};
size_t sinceAsked = 0;
size_t inUse = 0;      // bytes of mappings in use
size_t mostInUse = 0;  // the most there ever was

/** Freed mappings by size, and the true size of those in use. Never destroyed, as threads may outlive statics. */
std::multimap<size_t, void*>& freeBlocks() {
  static auto* const blocks = new std::multimap<size_t, void*>();
  return *blocks;
}
std::unordered_map<void*, size_t>& usedBlocks() {
  static auto* const blocks = new std::unordered_map<void*, size_t>();
  return *blocks;
}

size_t mappedSize(size_t bytes) {
  const size_t unit = bytes >= kHugePage ? kHugePage : kSmallUnit;
  return (bytes + unit - 1) / unit * unit;
}

/** Most systems promise memory that they do not have, and end the process that uses it; better to be told here. */
bool hasRoom(size_t size) {
  sinceAsked += size;
  if (sinceAsked < kAskEvery) return true;
  const size_t available = availableBytes();
  if (available < size || available - size < kReserve) return false;
  sinceAsked = 0;
  return true;
}

/** The smallest kept block that fits without waste, or null. */
void* takeCached(size_t size, size_t& actual) {
  auto& blocks = freeBlocks();
  const auto found = blocks.lower_bound(size);
  if (found == blocks.end() || static_cast<double>(found->first) > kSlack * static_cast<double>(size)) return nullptr;
  void* address = found->second;
  actual = found->first;
  blocks.erase(found);
  cached -= actual;
  return address;
}

/** Gives kept blocks back, the largest first, until `room` more bytes fit under the peak and an eighth. */
void makeRoom(size_t room) {
  auto& blocks = freeBlocks();
  while (!blocks.empty() && inUse + cached + room > mostInUse + mostInUse / 8) {
    const auto largest = std::prev(blocks.end());
    unmapPages(largest->second, largest->first);
    cached -= largest->first;
    blocks.erase(largest);
  }
}

void trimLocked() {
  for (const auto& [size, address] : freeBlocks()) unmapPages(address, size);
  freeBlocks().clear();
  cached = 0;
}

}  // namespace

void* allocateBytes(size_t bytes) {
  if (bytes < kMapFrom) {
    return allocateAligned(bytes == 0 ? kUnit : (bytes + kUnit - 1) / kUnit * kUnit);
  }
  if (bytes > SIZE_MAX / 2) return nullptr;
  const size_t size = mappedSize(bytes);
  std::lock_guard<std::mutex> lock(mutex);
  size_t actual = size;
  void* address = takeCached(size, actual);
  if (!address) {
    makeRoom(size);
    if (!hasRoom(size)) {
      trimLocked();
      if (!hasRoom(size)) return nullptr;
    }
    address = mapPages(size);
  }
  if (!address) return nullptr;
  usedBlocks()[address] = actual;
  inUse += actual;
  if (inUse > mostInUse) mostInUse = inUse;
  return address;
}

void freeBytes(void* address, size_t bytes) {
  if (bytes < kMapFrom) return freeAligned(address);
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = usedBlocks().find(address);
  if (found == usedBlocks().end()) return;
  const size_t actual = found->second;
  usedBlocks().erase(found);
  inUse -= actual;
  freeBlocks().emplace(actual, address);
  cached += actual;
}

size_t cachedBytes() { return cached; }

void trimCache() {
  std::lock_guard<std::mutex> lock(mutex);
  trimLocked();
  mostInUse = inUse;
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
    const size_t size = bytes < kLeastScratch ? kLeastScratch : bytes < kMapFrom ? bytes : mappedSize(bytes);
    block.address = allocateBytes(size);
    if (!block.address) throw std::bad_alloc();
    block.bytes = size;
    scratchTotal += size;
  }
  return block.address;
}

size_t scratchBytes() { return scratchTotal; }

}  // namespace lowrank
