// How much memory this process may still take: what the system has available, what its control groups leave it, and
// its own resource limits. Not here: who asks (memory.cc), what the user is told (src/backend/cpu.ts).
#pragma once
#include <cstddef>

namespace lowrank {

/** Bytes, as far as the system tells; SIZE_MAX where it does not. Pages of files count as available. */
size_t availableBytes();

}  // namespace lowrank
