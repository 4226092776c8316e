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

/** Calls body(part, row, sums) for every row of every strip; the rows of all strips together are cut into equal shares. */
template <typename Body>
void forRows(const std::vector<Strip>& strips, int64_t t, const Body& body) {
  constexpr int64_t kWorthAThread = 32768;
  int64_t total = 0, widest = 1;
  for (const Strip& strip : strips) {
    total += strip.weight.rows;
    widest = std::max(widest, strip.weight.cols);
  }
  parallelRange(total, std::max<int64_t>(1, kWorthAThread / widest), [&](int64_t begin, int64_t end, int) {
    float sums[kMostDotRows * kMostVectorRows];
    int64_t first = 0;
    for (const Strip& strip : strips) {
      const int64_t last = std::min(end - first, strip.weight.rows);
      for (int64_t row = std::max<int64_t>(0, begin - first); row < last;) {
        const int64_t done = rowDots(strip.weight, row, last - row, strip.x, strip.form, t, sums);
        for (int64_t r = 0; r < done; r++) body(strip.part, row + r, sums + r * t);
        row += done;
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
  forRows(strips, t, [&](int64_t p, int64_t row, const float* sums) {
    const Adapter& adapter = parts[p].adapter;
    for (int64_t i = 0; i < t; i++) adapter.u[i * adapter.rank + row] = sums[i];
  });
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
  forRows(strips, t, [&](int64_t p, int64_t row, const float* sums) {
    const LinearPart& part = parts[p];
    const Adapter& adapter = part.adapter;
    const int64_t out = part.weight.rows, rank = adapter.rank;
    for (int64_t i = 0; i < t; i++) {
      float value = sums[i];
      if (part.bias) value += part.bias[row];
      if (rank > 0) {
        float up = 0;
        for (int64_t r = 0; r < rank; r++) up += adapter.u[i * rank + r] * adapter.b[row * rank + r];
        value += adapter.scale * up;
      }
      if (part.residual) value += part.residual[i * out + row];
      part.y[i * out + row] = value;
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
