// The table of this instruction set's attention in bf16. Not here: its choice (dispatch.cc).
#include "declarations.h"

namespace lowrank {

const Bf16AttentionTable* LOWRANK_PER_ISA(bf16AttentionTable)() {
  namespace isa = LOWRANK_ISA_NAMESPACE;
  static constexpr Bf16AttentionTable table = {isa::attentionInPairs, isa::cachedAttentionInPairs,
                                                isa::attentionBackwardInPairs};
  return &table;
}

}  // namespace lowrank
