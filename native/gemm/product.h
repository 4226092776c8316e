// The blocked product: C [M, N] = sum over terms of left [M, depth] x right [depth, N], plus init and bias. Threads
// split M and N, never depth, and each element of C sums its terms in an order fixed by the shapes alone: results do
// not depend on the number of threads. Several products can be one job (Products).
//
// The loops (Goto & van de Geijn 2008): tasks of rows x columns; in a task, blocks of depth; for a block the right side
// is packed for the task's columns, then tile after tile is computed. A block may hold pieces of several terms
// (the end of a weight and the adapter behind it), so that C is not visited for each.
#pragma once
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "foresight.h"
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
    size_t term;
    int64_t leftBlock, begin, depth, padded;
  };
  struct Block {
    std::vector<Piece> pieces;
    int64_t padded = 0;
  };
  struct Grid {
    int64_t rowPanels, colPanels;  // of a task
    double cost;                   // of the thread that has most to do, in rows x panels of columns
  };

 public:
  /** What one thread does without waiting: panels [i0, i1) x [j0, j1) of C. */
  struct Task {
    int64_t i0, i1, j0, j1;
    int64_t size() const { return (i1 - i0) * (j1 - j0); }
  };

  Product(int64_t rows, int64_t cols, std::vector<Term<Engine>> terms, const Result& result)
      : rows_(rows), cols_(cols), terms_(std::move(terms)), result_(result) {
    if (rows <= 0 || cols <= 0) return;
    plan();
    split();
  }

  const std::vector<Task>& tasks() const { return tasks_; }

  /** Asks for `next` meanwhile. */
  void run(const Task& task, const Ahead::Regions& next) const {
    runTask(task.i0, task.i1, task.j0, task.j1, Ahead(next, task.size()));
  }

  /** The weights that a task packs first. */
  Region firstOf(const Task& task) const {
    return regionOf(blocks_.front(), task.j0 * Engine::kCols, (task.j1 - task.j0) * Engine::kCols);
  }

  /** Tells products of stored weights apart, also by their way; 0 for small ones. */
  uint64_t key() const {
    constexpr int64_t kLeast = int64_t{1} << 16;
    const Right& right = terms_.front().right;
    if (right.weight->rows * right.weight->cols < kLeast) return 0;
    return reinterpret_cast<uintptr_t>(right.weight->data) * 2 + (right.way == Right::Way::Forward ? 0 : 1);
  }

 private:
  /** Cuts the terms' depths into blocks of about kDepth. */
  void plan() {
    constexpr int64_t kMost = Engine::kDepth + Engine::kDepth / 4;
    for (size_t t = 0; t < terms_.size(); t++) {
      const Term<Engine>& term = terms_[t];
      for (int64_t b = 0; b < term.left->blocks; b++) {
        const int64_t begin = b * term.left->blockDepth;
        const Piece piece{t, b, begin, std::min(term.left->blockDepth, term.left->depth - begin),
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

  /** Tasks by the split that finishes first, the largest first. */
  void split() {
    const int64_t rowPanels = divideUp(rows_, Engine::kRows), colPanels = divideUp(cols_, Engine::kCols);
    const Grid grid = chooseGrid();
    constexpr int64_t kFewRows = 1024;  // of more, the packed rows of all columns' tasks outgrow the caches
    if (!Engine::kKeepsSums && rows_ <= kFewRows && splitByColumns(grid.cost)) return;
    for (int64_t j = 0; j < colPanels; j += grid.colPanels) {
      for (int64_t i = 0; i < rowPanels; i += grid.rowPanels) {
        tasks_.push_back({i, std::min(i + grid.rowPanels, rowPanels), j, std::min(j + grid.colPanels, colPanels)});
      }
    }
  }

  /**
   * All rows of as many columns as every thread gets the same number of, and a few panels at the end split by rows into
   * small tasks, so that no thread waits long for another: columns are packed once but for those. False if that costs
   * `most` or more.
   */
  bool splitByColumns(double most) {
    const int64_t rowPanels = divideUp(rows_, Engine::kRows), colPanels = divideUp(cols_, Engine::kCols);
    const int64_t threads = std::min<int64_t>(threadCount(), rowPanels), width = Engine::kChunk / Engine::kCols;
    int64_t each = colPanels / threads, left = colPanels % threads;
    if (left == 0 && each > width) {
      each--;
      left = threads;
    }
    const int64_t pieces = left == 0 ? 1 : std::min(rowPanels, divideUp(2 * threads, left));
    const int64_t share = divideUp(rowPanels, pieces);
    const auto work = [](int64_t panels) { return static_cast<double>(panels * Engine::kRows + Engine::kPackRows); };
    const double ends = static_cast<double>(divideUp(left * pieces, threads));
    if (static_cast<double>(each) * work(rowPanels) + ends * work(share) >= most) return false;
    const int64_t rounds = divideUp(each, width);
    int64_t j = 0;
    for (int64_t round = 0; round < rounds; round++) {
      const int64_t n = each * (round + 1) / rounds - each * round / rounds;
      for (int64_t t = 0; t < threads; t++, j += n) tasks_.push_back({0, rowPanels, j, j + n});
    }
    for (; j < colPanels; j++) {
      for (int64_t i = 0; i < rowPanels; i += share) tasks_.push_back({i, std::min(i + share, rowPanels), j, j + 1});
    }
    return true;
  }

  /** The split of C that finishes first: packing costs each task kPackRows rows of work a column. */
  Grid chooseGrid() const {
    const int64_t rowPanels = divideUp(rows_, Engine::kRows), colPanels = divideUp(cols_, Engine::kCols);
    const int64_t threads = threadCount();
    constexpr int64_t kMostCols = Engine::kChunk / Engine::kCols;
    Grid best{rowPanels, std::min(colPanels, kMostCols), -1};
    int64_t fewest = 1;  // row tasks: sums that are kept between blocks must fit into the L2 cache
    if (Engine::kKeepsSums && blocks_.size() > 1) fewest = divideUp(rowPanels, Engine::kRowBlock / Engine::kRows);
    for (int64_t rowTasks = fewest; rowTasks <= std::max(fewest, std::min(rowPanels, threads)); rowTasks++) {
      for (int64_t width = kMostCols; width >= 1; width--) {
        Grid grid{divideUp(rowPanels, rowTasks), std::min(width, colPanels), 0};
        const int64_t tasks = divideUp(rowPanels, grid.rowPanels) * divideUp(colPanels, grid.colPanels);
        const double work = static_cast<double>(grid.rowPanels * Engine::kRows + Engine::kPackRows);
        grid.cost = static_cast<double>(divideUp(tasks, threads) * grid.colPanels) * work;
        if (best.cost < 0 || grid.cost < best.cost * 0.99) best = grid;
      }
    }
    return best;
  }

  /** The weights of a block that belong to columns [c0, c0 + n). */
  Region regionOf(const Block& block, int64_t c0, int64_t n) const {
    n = std::min(n, cols_ - c0);
    const Piece& piece = block.pieces.front();
    const Right& right = terms_[piece.term].right;
    const Weight& w = *right.weight;
    const bool forward = right.way == Right::Way::Forward;
    const auto bytes = [&](int64_t elements) {
      return w.kind == Weight::Kind::F32 ? elements * 4 : w.kind == Weight::Kind::BF16 ? elements * 2 : elements / 2;
    };
    const int64_t row = forward ? c0 : piece.begin, col = forward ? piece.begin : c0;
    return {static_cast<const char*>(w.data) + bytes(row * w.cols + col), bytes(w.cols),
            bytes(forward ? piece.depth : n), forward ? n : piece.depth};
  }

  /** `after`: what is packed after this task. */
  void runTask(int64_t i0, int64_t i1, int64_t j0, int64_t j1, const Ahead& after) const {
    const int64_t c0 = j0 * Engine::kCols, width = std::min(j1 * Engine::kCols, cols_) - c0;
    const int64_t panelStride = deepest_ * Engine::kCols + Engine::kPanelGap;
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
      Ahead ahead = &block == &blocks_.back() ? after : Ahead({regionOf(*(&block + 1), c0, width)}, tiles);
      Element* to = packed;
      for (const Piece& piece : block.pieces) {
        RightPacker<Engine>::pack(terms_[piece.term].right, c0, width, piece.begin, piece.depth, to, panelStride);
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
          runs[r].left = terms_[piece.term].left->panel(piece.leftBlock, i);
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
  std::vector<Term<Engine>> terms_;
  Result result_;
  std::vector<Block> blocks_;
  std::vector<Task> tasks_;
};

/** Products that are one job: threads wait for each other once. None may need another's result. */
template <typename Engine>
class Products {
 public:
  void add(int64_t rows, int64_t cols, std::vector<Term<Engine>> terms, const Result& result) {
    products_.emplace_back(rows, cols, std::move(terms), result);
  }

  /** `also`: memory that is used right after the products, and asked for meanwhile. */
  void run(const Region& also = {}) const {
    struct Turn {
      const Product<Engine>* product;
      const typename Product<Engine>::Task* task;
    };
    std::vector<Turn> turns;
    for (const Product<Engine>& product : products_) {
      for (const auto& task : product.tasks()) turns.push_back({&product, &task});
    }
    // Small tasks last, so that no thread is left with a large one.
    std::stable_sort(turns.begin(), turns.end(),
                     [](const Turn& a, const Turn& b) { return a.task->size() > b.task->size(); });
    const auto count = static_cast<int64_t>(turns.size()), threads = std::min<int64_t>(threadCount(), count);
    if (count == 0) return;
    const uint64_t key = turns.front().product->key();
    std::vector<Region> after;
    if (key != 0) {
      std::vector<Region> firsts;
      for (int64_t i = 0; i < threads; i++) firsts.push_back(turns[i].product->firstOf(*turns[i].task));
      after = Foresight::begin(key, std::move(firsts));
    }
    // Each thread's tasks are probably every threads-th one. What comes after all of them is asked for evenly.
    std::vector<int64_t> before(turns.size()), all(static_cast<size_t>(threads));
    for (int64_t i = 0; i < count; i++) {
      before[i] = all[i % threads];
      all[i % threads] += turns[i].task->size();
    }
    parallelTasks(count, [&](int64_t i, int) {
      const Turn& turn = turns[i];
      Ahead::Regions next;
      const int64_t begin = before[i], end = begin + turn.task->size(), whole = all[i % threads];
      if (i + threads < count) {
        const Turn& follower = turns[i + threads];
        const bool same = follower.product == turn.product && follower.task->j0 == turn.task->j0;
        if (!same) next[0] = follower.product->firstOf(*follower.task);
      }
      if (i % threads < static_cast<int64_t>(after.size())) {
        next[2] = after[i % threads].part(begin, end, whole);
      }
      next[1] = also.part(i % threads, i % threads + 1, threads).part(begin, end, whole);
      turn.product->run(*turn.task, next);
    });
  }

 private:
  std::vector<Product<Engine>> products_;
};

/** One product, now. */
template <typename Engine>
void multiply(int64_t rows, int64_t cols, std::vector<Term<Engine>> terms, const Result& result) {
  Products<Engine> products;
  products.add(rows, cols, std::move(terms), result);
  products.run();
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
