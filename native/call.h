// One kernel call: an id and an array of doubles (addresses, sizes, factors), as src/backend/cpu.ts writes them.
#pragma once
#include "dispatch.h"

namespace lowrank {

/** Kernel names by id, null-terminated. */
const char* const* kernelNames();

/** Most doubles that a call takes: enough for 64 parts of a linear call. */
constexpr int kMostArguments = 4096;

/** Runs kernel `id`. Returns null, or what is wrong with the call. Throws std::bad_alloc when scratch memory is short. */
const char* callKernel(const Isa& isa, int id, const double* arguments);

}  // namespace lowrank
