// The calls of products, which carry lists of parts and stacks of weights. Not here: the products (gemm/).
#pragma once
#include "gemm/gemm.h"
#include "reader.h"

namespace lowrank {

/** False when the arguments are not as many as the call needs; nothing ran then. */
bool callLinear(const LinearTable& table, Reader& in);
bool callLinearBackward(const LinearTable& table, Reader& in);
bool callGroupedLinear(const LinearTable& table, Reader& in);
bool callGroupedLinearBackward(const LinearTable& table, Reader& in);

}  // namespace lowrank
