// Memory from the system itself: small aligned blocks from its C library, large ones as pages of their own.
// blocks-posix.cc and blocks-windows.cc hold the two ways. Not here: what is kept for reuse (memory.h).
#pragma once
#include <cstddef>

namespace lowrank {

constexpr size_t kHugePage = size_t{2} << 20;

/** At an address that is a multiple of 64. Null when there is none. */
void* allocateAligned(size_t bytes);
void freeAligned(void* address);

/** Whole pages; where the system has huge ones and the block is large enough for one, those. Null when there are none. */
void* mapPages(size_t bytes);
/** All of a mapping, with the size it was asked for. */
void unmapPages(void* address, size_t bytes);

}  // namespace lowrank
