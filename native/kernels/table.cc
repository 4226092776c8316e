// The table of this instruction set's kernels. Not here: any kernel, nor the choice of a table (dispatch.cc).
#include "declarations.h"

namespace lowrank {

const KernelTable* LOWRANK_PER_ISA(kernelTable)() {
  static constexpr KernelTable table = {
      LOWRANK_QUOTE(LOWRANK_ISA_SUFFIX),
#define LOWRANK_KERNEL(name, ...) LOWRANK_ISA_NAMESPACE::name,
#include "../kernels.def"
  };
  return &table;
}

}  // namespace lowrank
