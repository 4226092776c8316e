// linear for a few rows (generation): every weight is read once and multiplied as it passes. The products of one row
// of a weight, and which of them round x: vector-dots.h.
#include <array>
#include <optional>

#include "engines.h"
#include "pack.h"
#include "vector-dots.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** One weight and the rows it multiplies. */
struct Strip {
  Weight weight;
  Inputs x;
  int64_t part;
};

/** The rows of x [t, in] in every form that some weight needs. */
class Forms {
 public:
  Forms(const float* x, int64_t t, int64_t in) : x_(x), t_(t), in_(in) {}

  Inputs in(Form form) {
    if (form == Form::Plain && t_ == 1) return {x_, in_, form};
    const int64_t stride = inputStride(in_);
    std::optional<Scratch>& made = made_[static_cast<size_t>(form)];
    if (!made) {
      made.emplace(t_ * stride * (isHalf(form) ? 2 : 4));
      for (int64_t i = 0; i < t_; i++) {
        const float* from = x_ + i * in_;
        if (form == Form::Plain) std::copy_n(from, in_, made->as<float>() + i * stride);
        if (form == Form::Half) narrowToBf16(from, 1, made->as<uint16_t>() + i * stride, in_);
#if defined(LOWRANK_FLOAT_LOOKUP)
        if (form == Form::EvenFirst) evenFirst(from, in_, FloatLookup::kWidth, made->as<float>() + i * stride);
#endif
#if defined(LOWRANK_HALF_LOOKUP)
        if (form == Form::HalfEven) halfEven(from, made->as<uint16_t>() + i * stride);
#endif
      }
    }
    return {made->as<void>(), stride, form};
  }

 private:
#if defined(LOWRANK_HALF_LOOKUP)
  void halfEven(const float* from, uint16_t* to) const {
    constexpr int64_t kWidth = HalfLookup::kWidth;
    uint16_t halves[kWidth];
    for (int64_t i = 0; i < in_; i += kWidth) {
      narrowToBf16(from + i, 1, halves, kWidth);
      evenFirst(halves, kWidth, kWidth, to + i);
    }
  }
#endif

  const float* x_;
  int64_t t_, in_;
  std::array<std::optional<Scratch>, static_cast<size_t>(Form::Count)> made_;
};

/**
 * Calls body(part, row, rows, sums) for all rows of every strip, some at a time; sums as blockDots leaves them. The rows
 * of all strips together are cut into equal shares.
 */
template <typename Body>
void forRows(const std::vector<Strip>& strips, int64_t t, const Body& body) {
  constexpr int64_t kWorthAThread = 32768;
  int64_t total = 0, widest = 1;
  for (const Strip& strip : strips) {
    total += strip.weight.rows;
    widest = std::max(widest, strip.weight.cols);
  }
  parallelRange(total, std::max<int64_t>(1, kWorthAThread / widest), [&](int64_t begin, int64_t end, int) {
    alignas(64) float sums[kDotBlock * kMostVectorRows];
    int64_t first = 0;
    for (const Strip& strip : strips) {
      const int64_t last = std::min(end - first, strip.weight.rows);
      for (int64_t row = std::max<int64_t>(0, begin - first); row < last; row += kDotBlock) {
        const int64_t rows = std::min<int64_t>(kDotBlock, last - row);
        blockDots(strip.weight, row, rows, strip.x, t, sums);
        body(strip.part, row, rows, sums);
      }
      first += strip.weight.rows;
    }
  });
}

/** u = dropout(x) A^T of every adapter. */
void down(const float* x, int64_t t, int64_t in, const LinearPart* parts, int64_t count) {
  std::vector<Strip> strips;
  std::vector<Scratch> masked;
  for (int64_t p = 0; p < count; p++) {
    const Adapter& adapter = parts[p].adapter;
    if (adapter.rank == 0) continue;
    const float* from = x;
    if (adapter.dropout.threshold != 0) {
      masked.emplace_back(t * in * 4);
      applyDropout<false>(x, 0, t * in, adapter.dropout, masked.back().as<float>());
      from = masked.back().as<float>();
    }
    strips.push_back({matrixOf(adapter.a, adapter.rank, in), {from, in, Form::Plain}, p});
  }
  if (strips.empty()) return;
  forRows(strips, t, [&](int64_t p, int64_t row, int64_t rows, const float* sums) {
    const Adapter& adapter = parts[p].adapter;
    for (int64_t i = 0; i < t; i++) std::copy_n(sums + i * kDotBlock, rows, adapter.u + i * adapter.rank + row);
  });
}

/** sums[i * kDotBlock + r] += scale * u[i] . B[row + r] for `rows` rows of B and all t of u. */
void addUp(const Adapter& adapter, int64_t t, int64_t row, int64_t rows, float* sums) {
  const int64_t rank = adapter.rank;
  auto* columns = static_cast<float*>(scratch(Slot::Rows, static_cast<size_t>(rank * kDotBlock) * 4));
  for (int64_t k = 0; k < rank; k++) {
    for (int64_t r = 0; r < kDotBlock; r++) columns[k * kDotBlock + r] = r < rows ? adapter.b[(row + r) * rank + k] : 0;
  }
  const Vf scale = splat(adapter.scale);
  for (int64_t i = 0; i < t; i++) {
    const float* u = adapter.u + i * rank;
    Vf up[kDotBlock / kLanes] = {};
    for (int64_t k = 0; k < rank; k++) {
      const Vf here = splat(u[k]);
      LOWRANK_UNROLL
      for (int v = 0; v < kDotBlock / kLanes; v++) {
        up[v] = multiplyAdd(here, load(columns + k * kDotBlock + v * kLanes), up[v]);
      }
    }
    LOWRANK_UNROLL
    for (int v = 0; v < kDotBlock / kLanes; v++) {
      float* to = sums + i * kDotBlock + v * kLanes;
      store(to, multiplyAdd(scale, up[v], load(to)));
    }
  }
}

}  // namespace

void linearVectors(Precision precision, const float* x, int64_t t, int64_t in, const LinearPart* parts,
                   int64_t count) {
  down(x, t, in, parts, count);
  std::vector<Strip> strips;
  Forms forms(x, t, in);
  for (int64_t p = 0; p < count; p++) {
    strips.push_back({parts[p].weight, forms.in(formFor(parts[p].weight, precision)), p});
  }
  forRows(strips, t, [&](int64_t p, int64_t row, int64_t rows, float* sums) {
    const LinearPart& part = parts[p];
    const int64_t out = part.weight.rows;
    if (part.adapter.rank > 0) addUp(part.adapter, t, row, rows, sums);
    for (int64_t i = 0; i < t; i++) {
      float* own = sums + i * kDotBlock;
      const Tile tile{part.y + i * out + row, 0, part.residual ? part.residual + i * out + row : nullptr, 0,
                      part.bias ? part.bias + row : nullptr, 1, static_cast<int>(rows), nullptr, true, true, nullptr};
      for (int r = 0; r < rows; r += kLanes) finish(tile, 0, r, load(own + r), static_cast<int>(rows) - r);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
