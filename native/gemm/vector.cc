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
  const void* x;  // [t, cols] in `form`
  Form form;
  int64_t part;
};

/** The rows of x in every form that some weight needs. */
class Forms {
 public:
  Forms(const float* x, int64_t count) : x_(x), count_(count) {}

  const void* in(Form form) {
    if (form == Form::Plain) return x_;
    std::optional<Scratch>& made = made_[static_cast<size_t>(form)];
    if (!made) {
      made.emplace(count_ * 4);
      if (form == Form::Split) splitHalves(x_, count_, made->as<float>());
      if (form == Form::Half) narrowToBf16(x_, 1, made->as<uint16_t>(), count_);
      if (form == Form::HalfSplit) splitToBf16(x_, count_, made->as<uint16_t>());
    }
    return made->as<void>();
  }

 private:
  const float* x_;
  int64_t count_;
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
        blockDots(strip.weight, row, rows, strip.x, strip.form, t, sums);
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
    strips.push_back({matrixOf(adapter.a, adapter.rank, in), from, Form::Plain, p});
  }
  if (strips.empty()) return;
  forRows(strips, t, [&](int64_t p, int64_t row, int64_t rows, const float* sums) {
    const Adapter& adapter = parts[p].adapter;
    for (int64_t i = 0; i < t; i++) std::copy_n(sums + i * kDotBlock, rows, adapter.u + i * adapter.rank + row);
  });
}

/** sums += scale * u[i] . B[row + r] for `rows` rows of B. */
void addUp(const Adapter& adapter, int64_t i, int64_t row, int64_t rows, float* sums) {
  const float* u = adapter.u + i * adapter.rank;
  for (int64_t r = 0; r < rows; r++) {
    const float* b = adapter.b + (row + r) * adapter.rank;
    float up = 0;
    for (int64_t k = 0; k < adapter.rank; k++) up += u[k] * b[k];
    sums[r] += adapter.scale * up;
  }
}

}  // namespace

void linearVectors(Precision precision, const float* x, int64_t t, int64_t in, const LinearPart* parts,
                   int64_t count) {
  down(x, t, in, parts, count);
  std::vector<Strip> strips;
  Forms forms(x, t * in);
  for (int64_t p = 0; p < count; p++) {
    const Form form = formFor(parts[p].weight, precision);
    strips.push_back({parts[p].weight, forms.in(form), form, p});
  }
  forRows(strips, t, [&](int64_t p, int64_t row, int64_t rows, float* sums) {
    const LinearPart& part = parts[p];
    const int64_t out = part.weight.rows;
    for (int64_t i = 0; i < t; i++) {
      float* own = sums + i * kDotBlock;
      if (part.adapter.rank > 0) addUp(part.adapter, i, row, rows, own);
      const Tile tile{part.y + i * out + row, 0, part.residual ? part.residual + i * out + row : nullptr, 0,
                      part.bias ? part.bias + row : nullptr, 1, static_cast<int>(rows), nullptr, true, true, nullptr};
      for (int r = 0; r < rows; r += kLanes) finish(tile, 0, r, load(own + r), static_cast<int>(rows) - r);
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
