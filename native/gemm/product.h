// The blocked product: C [M, N] = sum over terms of left [M, depth] x right [depth, N], plus init and bias. Threads
// split M and N, never depth, and each element of C sums its terms in an order fixed by the shapes alone: results do
// not depend on the number of threads.
//
// The loops (Goto & van de Geijn 2008): tasks of rows x columns; in a task, blocks of depth; for a block the right side
// is packed for the task's columns, then tile after tile is computed. A block may hold pieces of several terms
// (the end of a weight and the adapter behind it), so that C is not visited for each.
#pragma once
#include <array>
#include <vector>

#include "pack.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

template <typename Engine>
struct Term {
  const Left<Engine>* left;
  Right right;
};

struct Result {
  float* c;
  int64_t stride;
  const float* init = nullptr;  // [M, N], added; may be c
  int64_t initStride = 0;
  const float* bias = nullptr;  // [N], added
};

template <typename Engine>
class Product {
  using Element = typename Engine::Element;
  static constexpr int kMostRuns = 12;

  struct Piece {
    const Term<Engine>* term;
    int64_t leftBlock, begin, depth, padded;
  };
  struct Block {
    std::vector<Piece> pieces;
    int64_t padded = 0;
  };
  struct Grid {
    int64_t rowPanels, colPanels;  // of a task
  };
  /** Stored weights that are packed next: their lines are asked for little by little while tiles are computed. */
  struct Ahead {
    const char* from = nullptr;
    int64_t stride = 0, run = 0, left = 0;  // bytes from row to row and of each; rows
    int64_t at = 0, lines = 0;              // bytes into the row; cache lines to ask for at a time

    void ask() {
      for (int64_t i = 0; i < lines && left > 0; i++) {
        __builtin_prefetch(from + at, 0, 2);
        at += kLine;
        if (at < run) continue;
        at = 0;
        from += stride;
        left--;
      }
    }
  };
  static constexpr int64_t kLine = 64;

 public:
  Product(int64_t rows, int64_t cols, const std::vector<Term<Engine>>& terms, const Result& result)
      : rows_(rows), cols_(cols), result_(result) {
    if (rows <= 0 || cols <= 0) return;
    plan(terms);
    const Grid grid = chooseGrid();
    const int64_t rowPanels = divideUp(rows, Engine::kRows), colPanels = divideUp(cols, Engine::kCols);
    const int64_t rowTasks = divideUp(rowPanels, grid.rowPanels), colTasks = divideUp(colPanels, grid.colPanels);
    parallelTasks(rowTasks * colTasks, [&](int64_t task, int) {
      const int64_t i = task % rowTasks * grid.rowPanels, j = task / rowTasks * grid.colPanels;
      const int64_t next = task + threadCount() < rowTasks * colTasks ? (task + threadCount()) / rowTasks : -1;
      runTask(i, std::min(i + grid.rowPanels, rowPanels), j, std::min(j + grid.colPanels, colPanels),
              next < 0 ? cols_ : next * grid.colPanels * Engine::kCols);
    });
  }

 private:
  /** Cuts the terms' depths into blocks of about kDepth. */
  void plan(const std::vector<Term<Engine>>& terms) {
    constexpr int64_t kMost = Engine::kDepth + Engine::kDepth / 4;
    for (const Term<Engine>& term : terms) {
      for (int64_t b = 0; b < term.left->blocks; b++) {
        const int64_t begin = b * term.left->blockDepth;
        const Piece piece{&term, b, begin, std::min(term.left->blockDepth, term.left->depth - begin),
                          term.left->depthOf(b)};
        if (blocks_.empty() || blocks_.back().padded + piece.padded > kMost ||
            blocks_.back().pieces.size() == kMostRuns) {
          blocks_.emplace_back();
        }
        blocks_.back().pieces.push_back(piece);
        blocks_.back().padded += piece.padded;
        deepest_ = std::max(deepest_, blocks_.back().padded);
      }
    }
  }

  /** The split of C that finishes first: packing costs each task kPackRows rows of work a column. */
  Grid chooseGrid() const {
    const int64_t rowPanels = divideUp(rows_, Engine::kRows), colPanels = divideUp(cols_, Engine::kCols);
    const int64_t threads = threadCount();
    constexpr int64_t kMostCols = Engine::kChunk / Engine::kCols;
    Grid best{rowPanels, std::min(colPanels, kMostCols)};
    double bestCost = -1;
    int64_t fewest = 1;  // row tasks: sums that are kept between blocks must fit into the L2 cache
    if (Engine::kKeepsSums && blocks_.size() > 1) fewest = divideUp(rowPanels, Engine::kRowBlock / Engine::kRows);
    for (int64_t rowTasks = fewest; rowTasks <= std::max(fewest, std::min(rowPanels, threads)); rowTasks++) {
      for (int64_t width = kMostCols; width >= 1; width--) {
        const Grid grid{divideUp(rowPanels, rowTasks), std::min(width, colPanels)};
        const int64_t tasks = divideUp(rowPanels, grid.rowPanels) * divideUp(colPanels, grid.colPanels);
        const double work = static_cast<double>(grid.rowPanels * Engine::kRows + Engine::kPackRows);
        const double cost = static_cast<double>(divideUp(tasks, threads) * grid.colPanels) * work;
        if (bestCost < 0 || cost < bestCost * 0.99) {
          bestCost = cost;
          best = grid;
        }
      }
    }
    return best;
  }

  /** The weights of a block that belong to columns [c0, c0 + n). */
  Ahead aheadOf(const Block& block, int64_t c0, int64_t n, int64_t tiles) const {
    Ahead ahead;
    n = std::min(n, cols_ - c0);
    if (n <= 0) return ahead;
    const Piece& piece = block.pieces.front();
    const Weight& w = *piece.term->right.weight;
    const bool forward = piece.term->right.way == Right::Way::Forward;
    const auto bytes = [&](int64_t elements) {
      return w.kind == Weight::Kind::F32 ? elements * 4 : w.kind == Weight::Kind::BF16 ? elements * 2 : elements / 2;
    };
    const int64_t row = forward ? c0 : piece.begin, col = forward ? piece.begin : c0;
    ahead.from = static_cast<const char*>(w.data) + bytes(row * w.cols + col);
    ahead.stride = bytes(w.cols);
    ahead.run = bytes(forward ? piece.depth : n);
    ahead.left = forward ? n : piece.depth;
    ahead.lines = divideUp(ahead.left * divideUp(ahead.run, kLine), tiles);
    return ahead;
  }

  /** Columns from nextC0 on are what this thread will probably compute next. */
  void runTask(int64_t i0, int64_t i1, int64_t j0, int64_t j1, int64_t nextC0) const {
    const int64_t c0 = j0 * Engine::kCols, width = std::min(j1 * Engine::kCols, cols_) - c0;
    const int64_t panelStride = deepest_ * Engine::kCols;
    auto* packed = static_cast<Element*>(
        scratch(Slot::PackedB, static_cast<size_t>(panelStride * (j1 - j0)) * sizeof(Element)));
    float* sums = nullptr;
    if (Engine::kKeepsSums && blocks_.size() > 1) {
      const int64_t elements = (i1 - i0) * (j1 - j0) * Engine::kRows * Engine::kCols;
      sums = static_cast<float*>(scratch(Slot::Output, static_cast<size_t>(elements) * 4));
    }
    Engine::start();
    const int64_t tiles = (i1 - i0) * (j1 - j0);
    for (const Block& block : blocks_) {
      Ahead ahead = &block == &blocks_.back() ? aheadOf(blocks_.front(), nextC0, width, tiles)
                                              : aheadOf(*(&block + 1), c0, width, tiles);
      Element* to = packed;
      for (const Piece& piece : block.pieces) {
        RightPacker<Engine>::pack(piece.term->right, c0, width, piece.begin, piece.depth, to, panelStride);
        to += piece.padded * Engine::kCols;
      }
      constexpr int64_t kPanels = Engine::kRowBlock / Engine::kRows;
      for (int64_t i = i0; i < i1; i += kPanels) {
        const int64_t offset = (i - i0) * (j1 - j0) * Engine::kRows * Engine::kCols;
        multiply(block, packed, panelStride, i, std::min(i + kPanels, i1), j0, j1, sums ? sums + offset : nullptr,
                 ahead);
      }
    }
    Engine::stop();
  }

  /** All tiles of some row panels with the packed columns, over one block of depth. */
  void multiply(const Block& block, const Element* packed, int64_t panelStride, int64_t i0, int64_t i1, int64_t j0,
                int64_t j1, float* sums, Ahead& ahead) const {
    const int count = static_cast<int>(block.pieces.size());
    std::array<Run<Element>, kMostRuns> runs;
    Tile tile;
    tile.first = &block == &blocks_.front();
    tile.last = &block == &blocks_.back();
    tile.stride = result_.stride;
    tile.sums = sums;
    const bool fresh = tile.first || Engine::kKeepsSums;  // init and bias count, else C itself continues
    tile.initStride = fresh ? result_.initStride : result_.stride;
    for (int64_t j = j0; j < j1; j++) {
      const int64_t col = j * Engine::kCols;
      const Element* right = packed + (j - j0) * panelStride;
      for (int r = 0; r < count; r++) {
        runs[r].right = right;
        runs[r].depth = block.pieces[r].padded;
        right += runs[r].depth * Engine::kCols;
      }
      tile.cols = static_cast<int>(std::min<int64_t>(Engine::kCols, cols_ - col));
      tile.bias = fresh && result_.bias ? result_.bias + col : nullptr;
      for (int64_t i = i0; i < i1; i++) {
        const int64_t row = i * Engine::kRows;
        for (int r = 0; r < count; r++) {
          const Piece& piece = block.pieces[r];
          runs[r].left = piece.term->left->panel(piece.leftBlock, i);
        }
        tile.rows = static_cast<int>(std::min<int64_t>(Engine::kRows, rows_ - row));
        tile.c = result_.c + row * result_.stride + col;
        tile.init = !fresh         ? tile.c
                    : result_.init ? result_.init + row * result_.initStride + col
                                   : nullptr;
        tile.nextC = i + 1 < i1 ? tile.c + Engine::kRows * result_.stride : nullptr;
        Engine::kernel(runs.data(), count, tile);
        ahead.ask();
        if (sums) tile.sums += Engine::kRows * Engine::kCols;
      }
    }
  }

  int64_t rows_, cols_, deepest_ = 0;
  Result result_;
  std::vector<Block> blocks_;
};

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
