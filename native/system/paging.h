// Memory that the system may write to a file and take away: one mapping of one nameless file each. The file's blocks
// are reserved before the first use, so that a full disk is an error then and never a SIGBUS later.
// Not here: which bytes are wanted when (src/optim/paging.ts).
#pragma once
#include <cstddef>

namespace lowrank {

/** Maps `bytes` zeros, kept in a file made (and at once unlinked) at `path`. Returns 0, or an errno. */
int mapPaged(const char* path, size_t bytes, void*& address);
void unmapPaged(void* address);

/** Ranges are within one mapping; they are widened or narrowed to whole pages as is safe. */
/** Begins to read the range. */
void prefetchPaged(void* address, size_t bytes);
/** Begins to write what changed. */
void writePaged(void* address, size_t bytes);
/** Writes what changed, waits, and gives the memory back. */
void evictPaged(void* address, size_t bytes);

}  // namespace lowrank
