// The scales of a 4-bit weight's blocks, for loops that need one every few instructions.
#pragma once
#include "../isa.h"
#include "gemm.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** The scales of a weight's blocks: Weight::scale without a division where sizes are powers of two, as they are. */
class Scales {
 public:
  explicit Scales(const Weight& w) : weight_(w) {
    const int64_t size = w.nestedBlockSize;
    if (w.nestedCodebook && (size & (size - 1)) == 0) shift_ = __builtin_ctzll(static_cast<uint64_t>(size));
  }
  float operator[](int64_t block) const {
    if (shift_ < 0) return weight_.scale(block);
    const uint8_t code = static_cast<const uint8_t*>(weight_.absmax)[block];
    return weight_.nestedCodebook[code] * weight_.nestedAbsmax[block >> shift_] + weight_.nestedOffset;
  }

  /** Those of `count` blocks from `block` on: where they lie, or put into `room`. */
  const float* read(int64_t block, int64_t count, float* room) const {
    if (!weight_.nestedCodebook) return static_cast<const float*>(weight_.absmax) + block;
    for (int64_t i = 0; i < count; i++) room[i] = (*this)[block + i];
    return room;
  }

 private:
  const Weight weight_;
  int shift_ = -1;
};

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
