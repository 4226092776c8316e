// The table of this instruction set's kernels. Not here: any kernel, nor the choice of a table (dispatch.cc).
#include "declarations.h"

namespace lowrank {

const KernelTable* LOWRANK_PER_ISA(kernelTable)() {
  namespace isa = LOWRANK_ISA_NAMESPACE;
  static constexpr KernelTable table = {
      LOWRANK_QUOTE(LOWRANK_ISA_SUFFIX),
      isa::fill,
      isa::cast,
      isa::addInPlace,
      isa::scaleInPlace,
      isa::fillUniform,
      isa::gatherRows,
      isa::scatterRows,
      isa::sum,
      isa::sumSquares,
      isa::countNonFinite,
      isa::embedding,
      isa::embeddingBackward,
      isa::rmsNorm,
      isa::rmsNormBackward,
      isa::rope,
      isa::attention,
      isa::attentionBackward,
      isa::gatedActivation,
      isa::gatedActivationBackward,
      isa::crossEntropy,
      isa::adamw,
      isa::adamw8bit,
      isa::quantize4bit,
  };
  return &table;
}

}  // namespace lowrank
