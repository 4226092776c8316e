// Kernel calls as arrays of doubles (addresses, sizes, factors), as src/backend/cpu/ writes them.
#pragma once
#include "dispatch.h"

namespace lowrank {

/** A name and, as kernels.def writes them, its C++ arguments: "const float* x, int64_t n". */
struct Signature {
  const char* name;
  const char* arguments;  // null: the call is written by hand on both sides
};

/** The kernels by id, and the structs and enumerations ("enum F32, BF16") that they name; the last name is null. */
const Signature* kernelSignatures();
const Signature* typeSignatures();

/** Most doubles that a call takes: enough for 64 parts of a linear call. */
constexpr int kMostArguments = 4096;

/** Most doubles of the calls that run together. */
constexpr int kMostQueued = 4 * kMostArguments;

/** What ended a run of calls early: nothing, no memory for scratch space, or a call that is none. */
enum class Outcome { Done, OutOfMemory, Invalid };

/**
 * Runs the calls in calls[0, length), each [id, count, count arguments], up to the first that fails; `kernel` is the name
 * of that one.
 */
Outcome runCalls(const Isa& isa, const double* calls, int64_t length, const char*& kernel);

}  // namespace lowrank
