// The f32 microkernel, for every instruction set through vector types: kRows rows by Vectors vectors of columns,
// all in registers. Left panels are row after row; right panels are depth by kCols. With Source RoundedF32 the same
// arithmetic gives bf16 products (of two bf16, a product is exact in f32).
#pragma once
#include "engine.h"
#include "rows.h"
#include "steps-avx2.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kF32Rows = 6, kF32Vectors = 4, kF32Depth = 512;  // 24 accumulators of 32 registers
#elif defined(__AVX2__)
constexpr int kF32Rows = 6, kF32Vectors = 2, kF32Depth = 256;  // 12 of 16
#elif defined(__aarch64__)
constexpr int kF32Rows = 6, kF32Vectors = 4, kF32Depth = 256;  // 24 of 32
#else
constexpr int kF32Rows = 3, kF32Vectors = 4, kF32Depth = 256;  // 12 of 16 (SSE2)
#endif

template <typename SourceType>
struct F32Engine {
  using Element = float;
  using Source = SourceType;
  static constexpr int kRows = kF32Rows, kCols = kF32Vectors * kLanes, kDepthUnit = 1, kDepth = kF32Depth;
  static constexpr int kChunk = 256, kRowBlock = 96, kPackRows = 4;
  static constexpr bool kKeepsSums = false;
  static constexpr int kPanelGap = kLanes < 16 ? 16 : 0;

  static int64_t unitRow(int64_t unit, int group) { return unit * kCols + group * kGroup; }

  static void placeRow(const float* row, float factor, int64_t n, int64_t padded, int r, Element* panel) {
    Element* to = panel + r * padded;
    if (!row) return std::fill(to, to + padded, 0.0f);
    convertRow<Source>(row, factor, to, n);
    std::fill(to + n, to + padded, 0.0f);
  }

  static void start() {}
  static void stop() {}

  static int64_t columnsRead(int64_t n) { return columnsReadByVectors(n, kF32Vectors); }

  static void kernel(const Run<Element>* runs, int count, const Tile& tile) {
    if (tile.cols <= kLanes) return part<kRows, 1>(runs, count, tile);
    if (tile.cols <= 2 * kLanes) return part<kRows, 2>(runs, count, tile);
    if (tile.rows <= kRows / 3) return part<kRows / 3, kF32Vectors>(runs, count, tile);
    part<kRows, kF32Vectors>(runs, count, tile);
  }

  /**
   * The tile product where only the first Rows rows and Vectors vectors of columns count: adapters are 8 or 16 columns
   * wide, and two rows are left of 512.
   */
  template <int Rows, int Vectors>
  static inline __attribute__((always_inline)) void part(const Run<Element>* runs, int count, const Tile& tile) {
    Vf sums[Rows][Vectors];
    LOWRANK_UNROLL
    for (int r = 0; r < Rows; r++) {
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) sums[r][z] = Vf{};
    }
    for (int r = 0; r < tile.rows; r++) {
      for (int z = 0; z < Vectors * kLanes; z += 16) __builtin_prefetch(tile.c + r * tile.stride + z, 1);
    }
    for (int i = 0; i < count; i++) accumulate(runs[i], sums);
    if (tile.rows >= Rows && tile.cols >= Vectors * kLanes && !tile.bias) return finishWhole(tile, sums);
    LOWRANK_UNROLL
    for (int r = 0; r < Rows; r++) {
      if (r >= tile.rows) break;
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) finish(tile, r, z * kLanes, sums[r][z], tile.cols - z * kLanes);
    }
  }

  /** As finish() on every vector of the tile, without its questions. */
  template <int Rows, int Vectors>
  static inline __attribute__((always_inline)) void finishWhole(const Tile& tile, const Vf (&sums)[Rows][Vectors]) {
    float* c = tile.c;
    const float* init = tile.init;
    if (!init) {
      LOWRANK_UNROLL
      for (int r = 0; r < Rows; r++, c += tile.stride) {
        LOWRANK_UNROLL
        for (int z = 0; z < Vectors; z++) store(c + z * kLanes, sums[r][z]);
      }
      return;
    }
    LOWRANK_UNROLL
    for (int r = 0; r < Rows; r++, c += tile.stride, init += tile.initStride) {
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) store(c + z * kLanes, sums[r][z] + load(init + z * kLanes));
    }
  }

  template <int Rows, int Vectors>
  static inline __attribute__((always_inline)) void accumulate(const Run<Element>& run, Vf (&sums)[Rows][Vectors]) {
    const float* a = run.left;
    const float* b = run.right;
    const int64_t depth = run.depth;
    const auto step = [&](int64_t k) __attribute__((always_inline)) {
      Vf columns[Vectors];
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) columns[z] = load(b + z * kLanes);
      LOWRANK_UNROLL
      for (int r = 0; r < Rows; r++) {
        const Vf value = splat(a[r * depth + k]);
        LOWRANK_UNROLL
        for (int z = 0; z < Vectors; z++) sums[r][z] += value * columns[z];
      }
      b += kCols;
    };
    int64_t k = 0;
#if defined(__AVX2__) && !defined(__AVX512F__)
    if constexpr (Rows == 6 && Vectors == 2) {
      // The next rows of the left side lie behind these: eight steps use up three of its lines.
      const float* next = a + kRows * depth;
      for (; k + 8 <= depth; k += 8, b += 8 * kCols, next += 8 * kRows) {
        for (int line = 0; line < 3; line++) __builtin_prefetch(next + 16 * line);
        eightSteps(a + k, depth, b, sums);
      }
    }
#endif
    LOWRANK_UNROLL_4
    for (; k < depth; k++) step(k);
  }

  /** Independent multiply-adds on registers; returns operations done. */
  static double spin(int64_t rounds) {
    Vf sums[kRows][kF32Vectors];  // all different, or the compiler computes them once
    for (int r = 0; r < kRows; r++) {
      for (int z = 0; z < kF32Vectors; z++) sums[r][z] = splat(static_cast<float>(r * kF32Vectors + z));
    }
    Vf value = splat(1.0f), column = splat(0.5f);
    for (int64_t i = 0; i < rounds; i++) {
#if defined(__x86_64__)
      asm volatile("" : "+x"(value), "+x"(column));  // else the product is computed once, before the loop
#elif defined(__aarch64__)
      asm volatile("" : "+w"(value), "+w"(column));
#endif
      LOWRANK_UNROLL
      for (int r = 0; r < kRows; r++) {
        LOWRANK_UNROLL
        for (int z = 0; z < kF32Vectors; z++) sums[r][z] += value * column;
      }
    }
    Vf total{};
    for (int r = 0; r < kRows; r++) {
      for (int z = 0; z < kF32Vectors; z++) total += sums[r][z];
    }
    volatile float sink = sumLanes(total);
    (void)sink;
    return 2.0 * kRows * kF32Vectors * kLanes * static_cast<double>(rounds);
  }
};

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
