// The bf16 microkernel of AVX512-BF16 (VDPBF16PS): 6 rows by 64 columns, two products a lane and step. Left panels
// are row after row; right panels are pairs of depth by 64 columns.
#pragma once
#if defined(__AVX512BF16__)
#include "engine.h"
#include "rows.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

struct Bf16Engine {
  using Element = uint16_t;
  using Source = Bf16;
  static constexpr int kRows = 6, kVectors = 4, kCols = 64, kDepthUnit = 2, kDepth = 1024;
  static constexpr int kChunk = 256, kRowBlock = 96, kPackRows = 8;
  static constexpr bool kKeepsSums = false;
  static constexpr int kPanelGap = 0;

  static int64_t unitRow(int64_t unit, int group) { return unit * kCols + group * kGroup; }

  static void placeRow(const float* row, float factor, int64_t n, int64_t padded, int r, Element* panel) {
    Element* to = panel + r * padded;
    if (!row) return std::fill(to, to + padded, Element{0});
    convertRow<Source>(row, factor, to, n);
    std::fill(to + n, to + padded, Element{0});
  }

  static void start() {}
  static void stop() {}

  static int64_t columnsRead(int64_t n) { return columnsReadByVectors(n, kVectors); }

  static void kernel(const Run<Element>* runs, int count, const Tile& tile) {
    if (tile.cols <= kLanes) return part<kRows, 1>(runs, count, tile);
    if (tile.cols <= 2 * kLanes) return part<kRows, 2>(runs, count, tile);
    if (tile.rows <= kRows / 3) return part<kRows / 3, kVectors>(runs, count, tile);
    part<kRows, kVectors>(runs, count, tile);
  }

  /**
   * The tile product where only the first Rows rows and Vectors vectors of columns count: adapters are 8 or 16 columns
   * wide, and two rows are left of 512.
   */
  template <int Rows, int Vectors>
  static inline __attribute__((always_inline)) void part(const Run<Element>* runs, int count, const Tile& tile) {
    __m512 sums[Rows][Vectors];
    LOWRANK_UNROLL
    for (int r = 0; r < Rows; r++) {
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) sums[r][z] = _mm512_setzero_ps();
    }
    for (int r = 0; r < tile.rows; r++) {
      for (int z = 0; z < Vectors; z++) __builtin_prefetch(tile.c + r * tile.stride + z * kLanes, 1);
    }
    for (int i = 0; i < count; i++) accumulate(runs[i], sums);
    LOWRANK_UNROLL
    for (int r = 0; r < Rows; r++) {
      if (r >= tile.rows) break;
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) {
        finish(tile, r, z * kLanes, reinterpret_cast<Vf>(sums[r][z]), tile.cols - z * kLanes);
      }
    }
  }

  template <int Rows, int Vectors>
  static inline __attribute__((always_inline)) void accumulate(const Run<Element>& run,
                                                               __m512 (&sums)[Rows][Vectors]) {
    const auto* a = reinterpret_cast<const int32_t*>(run.left);
    const Element* b = run.right;
    const int64_t pairs = run.depth / 2;
    LOWRANK_UNROLL_4
    for (int64_t k = 0; k < pairs; k++, b += 2 * kCols) {
      __m512bh columns[Vectors];
      LOWRANK_UNROLL
      for (int z = 0; z < Vectors; z++) columns[z] = (__m512bh)_mm512_loadu_si512(b + z * 2 * kLanes);
      LOWRANK_UNROLL
      for (int r = 0; r < Rows; r++) {
        int32_t pair;
        std::memcpy(&pair, a + r * pairs + k, 4);
        const __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
        LOWRANK_UNROLL
        for (int z = 0; z < Vectors; z++) sums[r][z] = _mm512_dpbf16_ps(sums[r][z], columns[z], value);
      }
    }
  }

  static double spin(int64_t rounds) {
    __m512 sums[kRows][kVectors];  // all different, or the compiler computes them once
    for (int r = 0; r < kRows; r++) {
      for (int z = 0; z < kVectors; z++) sums[r][z] = _mm512_set1_ps(static_cast<float>(r * kVectors + z));
    }
    __m512i ones = _mm512_set1_epi16(0x3f80);
    for (int64_t i = 0; i < rounds; i++) {
      asm volatile("" : "+x"(ones));
      const __m512bh one = (__m512bh)ones;
      LOWRANK_UNROLL
      for (int r = 0; r < kRows; r++) {
        LOWRANK_UNROLL
        for (int z = 0; z < kVectors; z++) sums[r][z] = _mm512_dpbf16_ps(sums[r][z], one, one);
      }
    }
    __m512 total = _mm512_setzero_ps();
    for (int r = 0; r < kRows; r++) {
      for (int z = 0; z < kVectors; z++) total = _mm512_add_ps(total, sums[r][z]);
    }
    volatile float sink = _mm512_reduce_add_ps(total);
    (void)sink;
    return 2.0 * kRows * kVectors * 32 * static_cast<double>(rounds);
  }
};

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
#endif
