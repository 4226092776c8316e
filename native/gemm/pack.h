// Packing: activations into left panels once per call, weights into right panels chunk by chunk just before use.
// Layouts: the engines. Not here: the loops that consume panels (product.h).
#pragma once
#include <algorithm>

#include "../memory.h"
#include "../threads.h"
#include "engine.h"
#include "philox.h"
#include "rows.h"
#include "transpose.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

inline int64_t roundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
inline int64_t divideUp(int64_t n, int64_t by) { return (n + by - 1) / by; }

/**
 * Memory of one call. From 128 KB on in whole huge pages (which the cache of freed blocks hands round): small pages lie
 * scattered in physical memory and collide in the L2 cache.
 */
class Scratch {
 public:
  explicit Scratch(int64_t bytes)
      : bytes_(static_cast<size_t>(bytes < (128 << 10) ? bytes : roundUp(bytes, 2 << 20))),
        address_(allocateBytes(bytes_)) {
    if (!address_) throw std::bad_alloc();
  }
  Scratch(Scratch&& other) noexcept : bytes_(other.bytes_), address_(other.address_) { other.address_ = nullptr; }
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    if (address_) freeBytes(address_, bytes_);
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(address_);
  }

 private:
  size_t bytes_;
  void* address_;
};

/** The left side of a product before packing: [rows, depth] of f32, element (m, k) at from[m * stride + k]. */
struct Activations {
  const float* from;
  int64_t rows, depth, stride;
  bool transposed = false;  // element (m, k) at from[k * stride + m] instead
  float factor = 1;
  const Dropout* dropout = nullptr;  // applied to element m * depth + k
  int64_t firstElement = 0;          // of `from`, for dropout
};

/**
 * The left side packed: depth cut into blocks of equal size (a function of depth alone, so that results do not depend
 * on threads), each block panel after panel.
 */
template <typename Engine>
struct Left {
  using Element = typename Engine::Element;
  int64_t rows, depth, blockDepth, blocks, panels;
  Scratch memory;

  /** Room for what is packed later. */
  Left(int64_t rowCount, int64_t fullDepth)
      : rows(rowCount),
        depth(fullDepth),
        blockDepth(roundUp(divideUp(depth, divideUp(depth, Engine::kDepth)), Engine::kDepthUnit)),
        blocks(divideUp(depth, blockDepth)),
        panels(divideUp(rows, Engine::kRows)),
        memory(blocks * blockDepth * panels * Engine::kRows * static_cast<int64_t>(sizeof(Element))) {}

  explicit Left(const Activations& a) : Left(a.rows, a.depth) { pack(a); }

  /** Packs everything, on several threads. */
  void pack(const Activations& a) const {
    constexpr int64_t kWorthAThread = 16384;
    const int64_t grain = std::max<int64_t>(1, kWorthAThread / (blockDepth * Engine::kRows));
    parallelRange(blocks * panels, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) packPanel(a, i / panels, i % panels);
    });
  }

  /** Stretches of rows, each packed in order by one thread: a function of the rows alone. */
  static int64_t stretchesOf(int64_t rows) {
    constexpr int64_t kMost = 16;
    return std::clamp<int64_t>(divideUp(rows, Engine::kRows) / (2 * kVisitPanels), 1, kMost);
  }

  /** Elements of depth in block b, padded as packed. */
  int64_t depthOf(int64_t b) const {
    return roundUp(std::min(blockDepth, depth - b * blockDepth), Engine::kDepthUnit);
  }
  Element* panel(int64_t b, int64_t index) const {
    return memory.as<Element>() + b * blockDepth * panels * Engine::kRows + index * Engine::kRows * depthOf(b);
  }

  /**
   * Packs stretch `index` of a few rows after the other, and calls visit(first, count, begins) when rows [first, first +
   * count) are packed and their source is still in the cache; `begins`: for the first of the stretch.
   */
  template <typename Visit>
  void packStretch(const Activations& a, int64_t index, const Visit& visit) const {
    const int64_t stretches = stretchesOf(rows), begin = panels * index / stretches;
    const int64_t end = panels * (index + 1) / stretches;
    for (int64_t i = begin; i < end; i += kVisitPanels) {
      const int64_t first = i * Engine::kRows;
      const int64_t count = std::min(rows, std::min(i + kVisitPanels, end) * Engine::kRows) - first;
      packRows(a, first, count);
      visit(first, count, i == begin);
    }
  }

  /** Packs rows [first, first + count); first is a multiple of kRows. */
  void packRows(const Activations& a, int64_t first, int64_t count) const {
    for (int64_t panel = first / Engine::kRows; panel * Engine::kRows < first + count; panel++) {
      for (int64_t b = 0; b < blocks; b++) packPanel(a, b, panel);
    }
  }

 private:
  static constexpr int64_t kVisitPanels = std::max(1, 24 / Engine::kRows);  // between visits

  void packPanel(const Activations& a, int64_t b, int64_t index) const {
    const int64_t p0 = b * blockDepth, n = std::min(blockDepth, depth - p0), padded = depthOf(b);
    Element* to = panel(b, index);
    if (a.transposed) return packTransposedPanel(a, p0, n, padded, index, to);
    float* masked = a.dropout ? static_cast<float*>(scratch(Slot::Rows, static_cast<size_t>(n) * 4)) : nullptr;
    for (int r = 0; r < Engine::kRows; r++) {
      const int64_t m = index * Engine::kRows + r;
      const float* row = m < rows ? a.from + m * a.stride + p0 : nullptr;
      if (row && a.dropout) {
        applyDropout<false>(row, a.firstElement + m * a.depth + p0, n, *a.dropout, masked);
        row = masked;
      }
      Engine::placeRow(row, a.factor, n, padded, r, to);
    }
  }

  /** Columns of `from` become rows: 16 x 16 transposes into a buffer of rows, then as usual. */
  void packTransposedPanel(const Activations& a, int64_t p0, int64_t n, int64_t padded, int64_t index,
                           Element* to) const {
    const int64_t width = roundUp(Engine::kRows, kGroup), stride = roundUp(n, kGroup);
    auto* buffer = static_cast<float*>(scratch(Slot::Rows, static_cast<size_t>(width * stride) * 4));
    const int64_t m0 = index * Engine::kRows;
    for (int64_t k = 0; k < n; k += kGroup) {
      const void* lines[kGroup];
      for (int i = 0; i < kGroup; i++) lines[i] = k + i < n ? a.from + (p0 + k + i) * a.stride + m0 : nullptr;
      for (int64_t m = 0; m < Engine::kRows; m += kGroup) {
        const auto here = static_cast<int>(std::clamp<int64_t>(rows - m0 - m, 0, kGroup));
        transposeBlock(lines, m, here, kGroup, reinterpret_cast<uint32_t*>(buffer + m * stride + k), stride);
      }
    }
    for (int r = 0; r < Engine::kRows; r++) {
      Engine::placeRow(m0 + r < rows ? buffer + r * stride : nullptr, a.factor, n, padded, r, to);
    }
  }
};

/** The right side of a product: a stored matrix, whose rows (Forward) or columns (Straight) are columns of C. */
struct Right {
  enum class Way { Forward, Straight };
  const Weight* weight;
  Way way;
};

/**
 * Packs columns [c0, c0 + n) of C and depth [p0, p0 + depth) into panels of kCols columns, `panelStride` elements
 * apart. Depth is padded with zeros to kDepthUnit, columns to what the kernel reads.
 */
template <typename Engine>
class RightPacker {
  using Element = typename Engine::Element;
  using Source = typename Engine::Source;
  static constexpr int kUnit = 4 / sizeof(Element);  // elements a unit

 public:
  static void pack(const Right& right, int64_t c0, int64_t n, int64_t p0, int64_t depth, Element* to,
                   int64_t panelStride) {
    if (right.way == Right::Way::Forward) {
      packForward(*right.weight, c0, n, p0, depth, to, panelStride);
    } else {
      packStraight(*right.weight, c0, n, p0, depth, to, panelStride);
    }
  }

 private:
  static uint32_t* unitsOf(Element* to, int64_t panelStride, int64_t column, int64_t unit) {
    Element* panel = to + column / Engine::kCols * panelStride;
    return reinterpret_cast<uint32_t*>(panel) +
           Engine::unitRow(unit, static_cast<int>(column % Engine::kCols / kGroup));
  }

  static constexpr int64_t kRowsAhead = 8;

  /**
   * Asks for the first lines of elements [col, col + n) of a row, whose others the processor guesses. Where engines are
   * wide enough to wait for memory anyway, asking (foresight.h) is left to tiles.
   */
  static void ask(const Weight& w, int64_t row, int64_t col, int64_t n) {
    if constexpr (kLanes == 8) {
      constexpr int64_t kLine = 64, kMost = 4 * kLine;
      const int64_t first = row * w.cols + col;
      const auto bytes = [&](int64_t elements) {
        return w.kind == Weight::Kind::F32 ? elements * 4 : w.kind == Weight::Kind::BF16 ? elements * 2 : elements / 2;
      };
      if (isBlocks(w.kind)) return;
      const char* from = static_cast<const char*>(w.data) + bytes(first);
      for (int64_t at = 0; at < std::min(bytes(n), kMost); at += kLine) __builtin_prefetch(from + at);
    }
  }

  static void packForward(const Weight& w, int64_t c0, int64_t n, int64_t p0, int64_t depth, Element* to,
                          int64_t panelStride) {
    const int64_t even = roundUp(depth, kUnit), units = even / kUnit;
    const int64_t padded = roundUp(depth, Engine::kDepthUnit) / kUnit;
    auto* buffer = static_cast<Element*>(scratch(Slot::Rows, static_cast<size_t>(even * kGroup) * sizeof(Element)));
    const int64_t stride = padded > 1 ? Engine::unitRow(1, 0) : kGroup;
    for (int64_t column = 0; column < Engine::columnsRead(n); column += kGroup) {
      for (int64_t next = column + kGroup; next < std::min(n, column + 2 * kGroup); next++) ask(w, c0 + next, p0, depth);
      const void* rows[kGroup];
      for (int i = 0; i < kGroup; i++) {
        rows[i] = column + i < n ? readRow<Source>(w, c0 + column + i, p0, depth, even, buffer + i * even) : nullptr;
      }
      for (int64_t unit = 0; unit < padded; unit += 16) {
        const auto valid = static_cast<int>(std::clamp<int64_t>(units - unit, 0, 16));
        const auto written = static_cast<int>(std::min<int64_t>(padded - unit, 16));
        transposeBlock(rows, unit, valid, written, unitsOf(to, panelStride, column, unit), stride);
      }
    }
  }

  static void packStraight(const Weight& w, int64_t c0, int64_t n, int64_t p0, int64_t depth, Element* to,
                           int64_t panelStride) {
    const int64_t width = Engine::columnsRead(n);
    const int64_t units = roundUp(depth, Engine::kDepthUnit) / kUnit;
    auto* buffer =
        static_cast<Element*>(scratch(Slot::Rows, static_cast<size_t>(width * (kUnit + 1)) * sizeof(Element)));
    Element* zeros = buffer + width * kUnit;
    std::fill(zeros, zeros + width, Element{});
    for (int64_t unit = 0; unit < units; unit++) {
      if ((unit + kRowsAhead) * kUnit < depth) ask(w, p0 + unit + kRowsAhead, c0, n);
      const Element* rows[kUnit];
      for (int i = 0; i < kUnit; i++) {
        const int64_t k = unit * kUnit + i;
        rows[i] = k < depth ? readRow<Source>(w, p0 + k, c0, n, width, buffer + i * width) : zeros;
      }
      for (int64_t column = 0; column < width; column += kGroup) {
        interleave(rows, column, unitsOf(to, panelStride, column, unit));
      }
    }
  }

  /** 16 units: element `column + i` of each row, side by side. */
  static void interleave(const Element* const* rows, int64_t column, uint32_t* to) {
    if constexpr (kUnit == 1) {
      std::memcpy(to, rows[0] + column, kGroup * 4);
    } else {
#if defined(__AVX512F__)
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[0] + column)));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[1] + column)));
      _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
#else
      for (int i = 0; i < kGroup; i++) to[i] = rows[0][column + i] | uint32_t{rows[1][column + i]} << 16;
#endif
    }
  }
};

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
