// What a microkernel is given, shared by every engine. An engine is a struct of constants and functions:
//   Element, Source        packed element; how stored rows convert to it (rows.h)
//   kRows, kCols           size of the tile of C that one kernel call computes
//   kDepthUnit             packed depths are multiples of it, padded with zeros
//   kDepth                 depth of a block: how far a tile accumulates before it visits memory
//   kPanelGap              elements between packed right panels, so that they do not begin in one set of the L1 cache
//   kChunk                 columns of the right side that are packed at a time (they stay in the L2 cache)
//   kPackRows              what packing one column costs, in rows of multiplication: for the split among threads
//   unitRow(unit, group)   where 16 columns lie in a packed right panel, in 32-bit units
//   columnsRead(n)         of n packed columns, how many the kernel reads: the last panel may be cut short
//   placeRow(...)          writes one row of a packed left panel
//   kKeepsSums             whether unfinished sums of a task lie in a buffer, tile by tile, instead of in C
//   kernel(...)            the tile product
// Right panels are made of units: 32 bits, one f32 or two bf16 that follow one another in depth.
#pragma once
#include "vector.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

constexpr int kGroup = 16;  // columns handled together when packing; kCols is a multiple

/** A stretch of depth: a tile accumulates over several, whose operands lie apart. */
template <typename Element>
struct Run {
  const Element* left;   // packed panel of kRows rows
  const Element* right;  // packed panel of kCols columns
  int64_t depth;         // a multiple of kDepthUnit
};

/** c = product + init + bias on rows x cols of the tile. init may be c. */
struct Tile {
  float* c;
  int64_t stride;
  const float* init;  // or null
  int64_t initStride;
  const float* bias;  // or null
  int rows, cols;
  // Engines that keep sums only: c, init and bias are those of the finished product in every block of depth.
  float* sums;       // [kRows, kCols] between blocks; null when there is one block
  bool first, last;  // block of depth
  float* nextC;      // tile that the next call writes; or null
};

/** columnsRead of engines whose kernels exist for one, two or all `vectors` of a panel's columns; whole groups. */
inline int64_t columnsReadByVectors(int64_t n, int vectors) {
  const int64_t whole = n / (vectors * kLanes) * (vectors * kLanes), rest = n - whole;
  const int read = rest == 0 ? 0 : rest <= kLanes ? 1 : rest <= 2 * kLanes ? 2 : vectors;
  return whole + (read * kLanes + kGroup - 1) / kGroup * kGroup;
}

/** Writes one vector of results, `lanes` of it. */
inline void finish(const Tile& tile, int row, int col, Vf value, int lanes) {
  float* c = tile.c + row * tile.stride + col;
  const float* init = tile.init ? tile.init + row * tile.initStride + col : nullptr;
  if (lanes >= kLanes) {
    if (init) value += load(init);
    if (tile.bias) value += load(tile.bias + col);
    store(c, value);
  } else if (lanes > 0) {
    if (init) value += loadFirst(init, lanes);
    if (tile.bias) value += loadFirst(tile.bias + col, lanes);
    storeFirst(c, value, lanes);
  }
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
