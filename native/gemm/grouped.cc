// The linear layers of a mixture's experts, each on the rows that were sent to it: linear and linearBackward (forward.cc,
// backward.cc) once an expert. Experts are shared out among the threads, the longest first, each computed by one; what is
// too long for that is computed by all threads together. Either way gives the same bits. Rows of x that stand apart are
// brought together expert by expert, so that the whole of them never exists. Not here: who goes where (kernels/router.cc).
#include <algorithm>
#include <numeric>

#include "engines.h"
#include "pack.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** Calls body(expert, first row, rows) for every expert that has rows. */
template <typename Body>
void eachExpert(const GroupedRows& rows, int64_t experts, const Body& body) {
  const auto length = [&](int64_t e) { return int64_t{rows.offsets[e + 1]} - rows.offsets[e]; };
  std::vector<int64_t> order;
  order.reserve(static_cast<size_t>(experts));
  int64_t left = 0;
  for (int64_t e = 0; e < experts; e++) {
    if (length(e) == 0) continue;
    order.push_back(e);
    left += length(e);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return length(a) > length(b); });
  const int64_t threads = threadCount();
  const auto run = [&](int64_t e) { body(e, int64_t{rows.offsets[e]}, length(e)); };
  size_t next = 0;
  // By all threads: what would keep one busy after the others are done.
  const bool scarce = static_cast<int64_t>(order.size()) < 2 * threads;
  for (; next < order.size(); next++) {
    const int64_t e = order[next];
    if (!scarce && length(e) * threads <= left) break;
    run(e);
    left -= length(e);
  }
  parallelTasks(static_cast<int64_t>(order.size() - next),
                [&](int64_t task, int) { run(order[next + static_cast<size_t>(task)]); });
}

/** Rows [first, first + count) of the input, where they lie or brought together. */
class Rows {
 public:
  Rows(const float* x, const GroupedRows& rows, int64_t first, int64_t count, int64_t in)
      : together_(x && rows.index ? count * in * 4 : 64), data_(x ? x + first * in : nullptr) {
    if (!x || !rows.index) return;
    float* to = together_.as<float>();
    for (int64_t i = 0; i < count; i++) std::copy_n(x + int64_t{rows.index[first + i]} * in, in, to + i * in);
    data_ = to;
  }
  const float* data() const { return data_; }

 private:
  Scratch together_;
  const float* data_;
};

Adapter adapterAt(const Adapter& all, int64_t e, int64_t first, int64_t in, int64_t out) {
  Adapter adapter = all;
  if (all.rank == 0) return adapter;
  adapter.a += e * all.rank * in;
  adapter.b += e * out * all.rank;
  adapter.u += first * all.rank;
  if (adapter.dA) adapter.dA += e * all.rank * in;
  if (adapter.dB) adapter.dB += e * out * all.rank;
  return adapter;
}

}  // namespace

void groupedForward(Precision precision, const float* x, const GroupedRows& rows, const GroupedPart& part) {
  const int64_t out = part.weights.first.rows, in = part.weights.first.cols;
  eachExpert(rows, part.weights.experts, [&](int64_t e, int64_t first, int64_t count) {
    const Rows input(x, rows, first, count, in);
    LinearPart own{};
    own.weight = part.weights.at(e);
    own.bias = part.bias ? part.bias + e * out : nullptr;
    own.adapter = adapterAt(part.adapter, e, first, in, out);
    own.y = part.y + first * out;
    if (!rows.few) return linearPacked(precision, input.data(), count, in, &own, 1);
    for (int64_t i = 0; i < count; i += kMostVectorRows) {
      const int64_t some = std::min(kMostVectorRows, count - i);
      linearVectors(precision, input.data() + i * in, some, in, &own, 1);
      own.y += some * out;
      if (own.adapter.rank > 0) own.adapter.u += some * own.adapter.rank;
    }
  });
}

void groupedBackward(Precision precision, const float* x, const GroupedRows& rows, const GroupedPart& part) {
  const int64_t out = part.weights.first.rows, in = part.weights.first.cols;
  const bool needsInput = part.dWeight || part.adapter.dA;
  eachExpert(rows, part.weights.experts, [&](int64_t e, int64_t first, int64_t count) {
    const Rows input(needsInput ? x : nullptr, rows, first, count, in);
    LinearGradPart own{};
    own.weight = part.weights.at(e);
    own.dy = part.dy + first * out;
    own.adapter = adapterAt(part.adapter, e, first, in, out);
    own.dWeight = part.dWeight ? part.dWeight + e * out * in : nullptr;
    own.dBias = part.dBias ? part.dBias + e * out : nullptr;
    linearBackward(precision, input.data(), count, in, &own, 1, part.dx ? part.dx + first * in : nullptr, false);
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
