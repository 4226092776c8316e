// Dot products of the rows of a stored weight with a few rows of x, tile by tile (tile-dots.h). Which rows, and what
// becomes of the sums: vector.cc. Weights that are numbers already are multiplied where they lie. Others are turned into
// numbers a piece of a few rows at a time, in a buffer that stays in the L1 cache, and multiplied by all rows of x; beside
// a tile's rows of x or fewer, 4-bit ones are multiplied in the registers that they are looked up in (lookup.h).
#pragma once
#include <algorithm>
#include <type_traits>

#include "lookup.h"
#include "rows.h"
#include "split-pairs.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** How rows of x are laid out for the rows of a weight. In bf16 they are rounded, as for larger products too. */
enum class Form : int {
  Plain,      // f32
  EvenFirst,  // f32, through evenFirst: for codes that are looked up
  Half,       // bf16
  HalfEven,   // bf16, through evenFirst
  Count
};
constexpr bool isHalf(Form form) { return form == Form::Half || form == Form::HalfEven; }

/** The form of x that a weight's products need. f32 weights are multiplied as they are in any precision. */
inline Form formFor(const Weight& w, Precision precision) {
#if defined(LOWRANK_HALF_LOOKUP)
  if (precision == Precision::BF16 && w.kind != Weight::Kind::F32) {
    return looksUp<HalfLookup>(w) ? Form::HalfEven : Form::Half;
  }
#endif
#if defined(LOWRANK_FLOAT_LOOKUP)
  if (looksUp<FloatLookup>(w)) return Form::EvenFirst;
#endif
  (void)w;
  (void)precision;
  return Form::Plain;
}

/** Rows of x as they lie, in one form: elements of `form`, rows `stride` apart. */
struct Inputs {
  const void* data;
  int64_t stride;
  Form form;

  template <typename Element>
  const Element* row(int64_t i) const {
    return static_cast<const Element*>(data) + i * stride;
  }
};

/** Elements between rows that are laid out: rows a power of two apart would share few lines of the caches. */
inline int64_t inputStride(int64_t cols) { return roundUp(cols, 64) + 64; }

/** Calls body(first, count as a constant) for stretches of t rows of x, each at most a tile's. */
template <typename Body>
inline void eachStretch(int64_t t, const Body& body) {
  static_assert(kMostInputs == 6);
  const int64_t stretches = (t + kMostInputs - 1) / kMostInputs;
  for (int64_t i = 0; i < stretches; i++) {
    const int64_t first = t * i / stretches;
    switch (t * (i + 1) / stretches - first) {
      case 1: body(first, std::integral_constant<int, 1>()); break;
      case 2: body(first, std::integral_constant<int, 2>()); break;
      case 3: body(first, std::integral_constant<int, 3>()); break;
      case 4: body(first, std::integral_constant<int, 4>()); break;
      case 5: body(first, std::integral_constant<int, 5>()); break;
      default: body(first, std::integral_constant<int, 6>()); break;
    }
  }
}

/** Depth of a piece: that many elements of a sum are added up before they join those of the pieces before. */
constexpr int64_t kPiece = 1024;

/** Calls body(first row, rows as a constant) for `rows` rows, R at a time and then one by one. */
template <int R, typename Body>
inline void eachRows(int64_t rows, const Body& body) {
  int64_t r = 0;
  for (; r + R <= rows; r += R) body(r, std::integral_constant<int, R>());
  for (; r < rows; r++) body(r, std::integral_constant<int, 1>());
}

/** Rows of numbers where they lie, in tiles of R rows at most. */
template <typename Dots, int R>
void storedDots(const Weight& w, int64_t row, int64_t rows, int64_t begin, int64_t n, const Inputs& x, int64_t t,
                float* sums) {
  const auto* stored = static_cast<const typename Dots::Weight*>(w.data) + row * w.cols + begin;
  eachRows<R>(rows, [&](int64_t r, auto together) {
    eachStretch(t, [&](int64_t first, auto count) {
      constexpr int T = decltype(count)::value, kStep = std::min(decltype(together)::value, tileRows(T));
      const auto* here = x.template row<typename Dots::Input>(first) + begin;
      for (int i = 0; i < decltype(together)::value; i += kStep) {
        float* to = sums + first * kDotBlock + r + i;
        const auto* from = stored + (r + i) * w.cols;
        // Rows that follow come from memory once: the first stretch asks for them.
        if (kStep > 1 && first == 0) tileDots<Dots, kStep, T, true>(from, w.cols, here, x.stride, n, to);
        else tileDots<Dots, kStep, T, false>(from, w.cols, here, x.stride, n, to);
      }
    });
  });
}

/** Rows that decode(row, begin, n, to) turns into numbers, a piece at a time. */
template <typename Dots, typename Decode>
void decodedDots(int64_t cols, int64_t row, int64_t rows, const Inputs& x, int64_t t, float* sums, const Decode& decode) {
  constexpr int R = tileRows(1);
  alignas(64) typename Dots::Weight numbers[R * kPiece];
  for (int64_t k = 0; k < cols; k += kPiece) {
    const int64_t n = std::min(kPiece, cols - k);
    eachRows<R>(rows, [&](int64_t r, auto together) {
      for (int i = 0; i < decltype(together)::value; i++) decode(row + r + i, k, n, numbers + i * kPiece);
      eachStretch(t, [&](int64_t first, auto count) {
        constexpr int T = decltype(count)::value, kStep = std::min(decltype(together)::value, tileRows(T));
        for (int i = 0; i < decltype(together)::value; i += kStep) {
          tileDots<Dots, kStep, T, false>(numbers + i * kPiece, kPiece, x.template row<typename Dots::Input>(first) + k,
                                          x.stride, n, sums + first * kDotBlock + r + i);
        }
      });
    });
  }
}

/** Rows of codes beside T rows of x, multiplied as they are looked up. */
template <int T, typename Lookup>
void lookedUpDots(const Lookup& lookup, const Weight& w, const Scales& scales, int64_t row, int64_t rows,
                  const Inputs& x, float* sums) {
  using Dots = typename Lookup::Dots;
  const auto* here = x.template row<typename Dots::Input>(0);
  eachRows<tileRows(T)>(rows, [&](int64_t r, auto together) {
    for (int64_t k = 0; k < w.cols; k += kPiece) {
      const int64_t end = std::min(w.cols, k + kPiece);
      lookUpDots<Lookup, decltype(together)::value, T>(lookup, w, scales, row + r, k, end, here, x.stride, sums + r);
    }
  });
}

/** Rows of codes. */
template <typename Lookup>
void codedDots(const Weight& w, int64_t row, int64_t rows, const Inputs& x, int64_t t, float* sums) {
  const Scales scales(w);
  const Lookup lookup(w.codebook);
  if (t <= kMostLookedUp) {
    return eachStretch(t, [&](int64_t, auto count) {
      if constexpr (decltype(count)::value <= kMostLookedUp) {
        lookedUpDots<decltype(count)::value>(lookup, w, scales, row, rows, x, sums);
      }
    });
  }
#if defined(LOWRANK_HALF_LOOKUP)
  if constexpr (std::is_same_v<Lookup, HalfLookup>) {
    if (splitsPairs()) {
      return decodedDots<SplitDots<float>>(w.cols, row, rows, x, t, sums, [&](int64_t at, int64_t k, int64_t n, float* to) {
        lookUpRow<SplitDots<float>>(lookup, w, scales, at, k, k + n, to);
      });
    }
  }
#endif
  decodedDots<typename Lookup::Dots>(w.cols, row, rows, x, t, sums, [&](int64_t at, int64_t k, int64_t n, auto* to) {
    lookUpRow<typename Lookup::Dots>(lookup, w, scales, at, k, k + n, to);
  });
}

/** bf16 weights beside f32. */
inline void widenedDots(const Weight& w, int64_t row, int64_t rows, const Inputs& x, int64_t t, float* sums) {
  if (t > kMostLookedUp) {
    return decodedDots<FloatDots>(w.cols, row, rows, x, t, sums, [&](int64_t at, int64_t k, int64_t n, float* to) {
      readRow<F32>(w, at, k, n, n, to);
    });
  }
  for (int64_t k = 0; k < w.cols; k += kPiece) {
    storedDots<WideDots, tileRows(1)>(w, row, rows, k, std::min(kPiece, w.cols - k), x, t, sums);
  }
}

/**
 * sums[i * kDotBlock + r] = row `row + r` of the weight . x[i] for `rows` rows, at most kDotBlock, and all t of x: rows of
 * w.cols elements in formFor(w, ...). The bits of a sum do not depend on `rows` or t.
 */
inline void blockDots(const Weight& w, int64_t row, int64_t rows, const Inputs& x, int64_t t, float* sums) {
  for (int64_t i = 0; i < t; i++) std::fill_n(sums + i * kDotBlock, rows, 0.0f);
  switch (x.form) {
#if defined(LOWRANK_HALF_LOOKUP)
    case Form::HalfEven: return codedDots<HalfLookup>(w, row, rows, x, t, sums);
    case Form::Half:
      if (w.kind != Weight::Kind::BF16) {
        return decodedDots<HalfDots>(w.cols, row, rows, x, t, sums, [&](int64_t at, int64_t k, int64_t n, uint16_t* to) {
          readRow<Bf16>(w, at, k, n, n, to);
        });
      }
      if (t > kMostLookedUp && splitsPairs())
        return storedDots<SplitDots<uint16_t>, tileRows(1)>(w, row, rows, 0, w.cols, x, t, sums);
      if (t > 1) return storedDots<HalfDots, tileRows(1)>(w, row, rows, 0, w.cols, x, t, sums);
      for (int64_t r = 0; r < rows; r++) {
        sums[r] = halfDot(static_cast<const uint16_t*>(w.data) + (row + r) * w.cols, x.row<uint16_t>(0), w.cols);
      }
      return;
#endif
#if defined(LOWRANK_FLOAT_LOOKUP)
    case Form::EvenFirst: return codedDots<FloatLookup>(w, row, rows, x, t, sums);
#endif
    default: break;
  }
  if (w.kind == Weight::Kind::BF16) return widenedDots(w, row, rows, x, t, sums);
  if (w.kind == Weight::Kind::F32) {
    // One row of x: memory is read fastest in one line, where a sum alone keeps up with it.
    if (t == 1 && kLanes == 16) return storedDots<FloatDots, 1>(w, row, rows, 0, w.cols, x, t, sums);
    return storedDots<FloatDots, tileRows(1)>(w, row, rows, 0, w.cols, x, t, sums);
  }
  decodedDots<FloatDots>(w.cols, row, rows, x, t, sums, [&](int64_t at, int64_t k, int64_t n, float* to) {
    readRow<F32>(w, at, k, n, n, to);
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
