#include "gemm.h"
#include "../isa.h"
namespace lowrank {
const LinearTable* LOWRANK_PER_ISA(linearTable)() { return nullptr; }
}
