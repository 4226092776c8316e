// The bf16 microkernel of AMX: tiles of 16 x 32 bf16 (left), 16 pairs x 16 columns (right), 16 x 16 f32 (sums), two
// by two. Panels are sequences of whole tiles in the order of use, so that each tile is one kilobyte in a row:
//   left   [step of 32][half of 16 rows][row][32]
//   right  [step of 32][half of 16 columns][pair][column][2]
#pragma once
#if defined(__AMX_BF16__)
#include "engine.h"
#include "rows.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

struct AmxEngine {
  using Element = uint16_t;
  using Source = Bf16;
  static constexpr int kRows = 32, kCols = 32, kDepthUnit = 32, kDepth = 576;
  static constexpr int kChunk = 256, kRowBlock = 512, kPackRows = 80;
  static constexpr bool kKeepsSums = true;
  static constexpr int kPanelGap = 0;
  static constexpr int kTile = 512;  // elements of a tile

  static int64_t unitRow(int64_t unit, int group) {
    return unit / 16 * kTile + group * (kTile / 2) + unit % 16 * kGroup;
  }

  static void placeRow(const float* row, float factor, int64_t n, int64_t padded, int r, Element* panel) {
    Element* to = panel + r / 16 * kTile + r % 16 * 32;
    for (int64_t k = 0; k < padded; k += 32, to += 2 * kTile) {
      const int64_t valid = row ? std::min<int64_t>(32, n - k) : 0;
      if (valid > 0) convertRow<Source>(row + k, factor, to, valid);
      if (valid < 32) std::fill(to + std::max<int64_t>(valid, 0), to + 32, Element{0});
    }
  }

  static int64_t columnsRead(int64_t n) { return (n + kCols - 1) / kCols * kCols; }

  /** Tile shapes are state of the thread; stop() leaves the tiles clean, which keeps context switches cheap. */
  static void start() {
    struct alignas(64) {
      uint8_t palette = 1, startRow = 0, reserved[14] = {};
      uint16_t rowBytes[16] = {};
      uint8_t rows[16] = {};
    } shapes;
    for (int i = 0; i < 8; i++) {
      shapes.rowBytes[i] = 64;
      shapes.rows[i] = 16;
    }
    _tile_loadconfig(&shapes);
  }
  static void stop() { _tile_release(); }

  static void kernel(const Run<Element>* runs, int count, const Tile& tile) {
    const bool whole = tile.rows == kRows && tile.cols == kCols;
    alignas(64) float sums[kRows * kCols];
    if (!tile.first) {
      loadTiles(tile.sums, kCols);
    } else if (tile.init && whole) {
      loadTiles(tile.init, tile.initStride);
    } else if (tile.init) {
      // Added first here too: a row has the same bits in a tile that is cut short.
      std::fill(sums, sums + kRows * kCols, 0.0f);
      for (int r = 0; r < tile.rows; r++) {
        std::copy_n(tile.init + r * tile.initStride, tile.cols, sums + r * kCols);
      }
      loadTiles(sums, kCols);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    float* nextC = tile.last ? tile.nextC : nullptr;
    for (int i = 0; i < count; i++) accumulate(runs[i], nextC, tile.stride);
    if (!tile.last) return storeTiles(tile.sums, kCols);
    if (whole && !tile.bias) return storeTiles(tile.c, tile.stride);
    storeTiles(sums, kCols);
    Tile rest = tile;
    rest.init = nullptr;  // it is in the sums
    for (int r = 0; r < tile.rows; r++) {
      finish(rest, r, 0, load(sums + r * kCols), tile.cols);
      finish(rest, r, 16, load(sums + r * kCols + 16), tile.cols - 16);
    }
  }

  static inline __attribute__((always_inline)) void accumulate(const Run<Element>& run, float*& nextC,
                                                               int64_t stride) {
    const Element* a = run.left;
    const Element* b = run.right;
    for (int64_t k = 0; k < run.depth; k += 32, a += 2 * kTile, b += 2 * kTile) {
      // The right panel is used again by the next rows: the left one streams past it in the L1 cache.
      _tile_loadd(6, b, 64);
      _tile_stream_loadd(4, a, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + kTile, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_stream_loadd(5, a + kTile, 64);
      // Writing C is what waits for memory: two of its next 32 rows a step come into the cache meanwhile.
      if (nextC) {
        for (int row = 0; row < 2; row++, nextC += stride) {
          __builtin_prefetch(nextC, 1);
          __builtin_prefetch(nextC + 16, 1);
        }
      }
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }

  static inline void loadTiles(const float* c, int64_t stride) {
    _tile_loadd(0, c, stride * 4);
    _tile_loadd(1, c + 16, stride * 4);
    _tile_loadd(2, c + 16 * stride, stride * 4);
    _tile_loadd(3, c + 16 * stride + 16, stride * 4);
  }

  static inline void storeTiles(float* c, int64_t stride) {
    _tile_stored(0, c, stride * 4);
    _tile_stored(1, c + 16, stride * 4);
    _tile_stored(2, c + 16 * stride, stride * 4);
    _tile_stored(3, c + 16 * stride + 16, stride * 4);
  }

  static double spin(int64_t rounds) {
    start();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(6);
    for (int64_t i = 0; i < rounds; i++) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 6);
      _tile_dpbf16ps(2, 4, 6);
      _tile_dpbf16ps(3, 4, 6);
    }
    stop();
    return 2.0 * 4 * 16 * 16 * 32 * static_cast<double>(rounds);
  }
};

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
#endif
