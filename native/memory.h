// Memory of the CPU backend: 64-byte aligned, huge pages for large blocks, given back to the system when freed.
// Not here: who owns which tensor (JavaScript does), the ledger of it (src/backend/ledger.ts).
#pragma once
#include <cstddef>
#include <cstdint>

namespace lowrank {

/** Null when the system has none. Contents undefined. */
void* allocateBytes(size_t bytes);
/** `bytes` as it was asked for. */
void freeBytes(void* address, size_t bytes);
/** Bytes of freed blocks kept for reuse; with those in use never more than were ever in use at once. */
size_t cachedBytes();
/** Gives every kept block back to the system. */
void trimCache();

/**
 * Working memory of a kernel, one block per slot and pool thread, grown on demand and kept: at most a few MB each.
 * Throws std::bad_alloc. Valid until the slot is next asked for by the same thread.
 */
enum class Slot : int { PackedA, PackedB, Rows, Output, Skinny, Count };
void* scratch(Slot slot, size_t bytes);
size_t scratchBytes();

}  // namespace lowrank
