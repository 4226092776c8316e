// blocks.h by VirtualAlloc. Windows counts memory when it is asked for, not when it is first touched, and its huge
// pages need a right that users do not have.
#include "system/blocks.h"

#include <malloc.h>
#include <windows.h>

namespace lowrank {

void* allocateAligned(size_t bytes) { return _aligned_malloc(bytes, 64); }

void freeAligned(void* address) { _aligned_free(address); }

void* mapPages(size_t bytes) { return VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

void unmapPages(void* address, size_t) { VirtualFree(address, 0, MEM_RELEASE); }

}  // namespace lowrank
