// Measurements of this machine: what products and memory can reach at most. bench/ reports fractions of these.
#pragma once
#include "dispatch.h"

namespace lowrank {

/** GFLOP/s of multiply-adds from registers, all threads together; about 0.2 s. */
double peakGflops(const Isa& isa, Precision precision);
/** GB/s of reading memory that no cache holds, all threads together. Zero when the memory is not to be had. */
double streamBandwidth();

}  // namespace lowrank
