// The kernels of one instruction set, one per entry of KernelTable (kernels.h), as table.cc collects them. Each lives in
// the file of its family. Not here: their arguments (kernels.def), what they mean (src/backend/contract.ts).
#pragma once
#include "../isa.h"
#include "../kernels.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

#define LOWRANK_KERNEL(name, ...) void name(__VA_ARGS__);
#include "../kernels.def"

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
