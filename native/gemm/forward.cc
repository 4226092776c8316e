// linear: y = x W^T + bias + residual + scale * dropout(x) A^T B^T, for all layers that share x. The adapter rides in
// the main product as extra depth (u beside x, B beside W). The A's of all parts are one skinny product; of low ranks,
// it is made while x is packed.
#include "dots.h"
#include "engines.h"
#include "outer.h"
#include "product.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

bool stacks(const Adapter& adapter) { return adapter.rank > 0 && adapter.dropout.threshold == 0; }

/** scale * u, the left side of an adapter's second product. */
Activations upOf(const Adapter& adapter, int64_t t) {
  Activations up{adapter.u, t, adapter.rank, adapter.rank};
  up.factor = adapter.scale;
  return up;
}

/** u = x A^T of every adapter without dropout: the A's under one another, one product, u's cut apart. */
template <typename Engine>
void stackedDown(const Left<Engine>& x, int64_t in, const LinearPart* parts, int64_t count) {
  int64_t ranks = 0, users = 0;
  const Adapter* only = nullptr;
  for (int64_t p = 0; p < count; p++) {
    if (!stacks(parts[p].adapter)) continue;
    only = &parts[p].adapter;
    ranks += only->rank;
    users++;
  }
  if (users == 0) return;
  if (users == 1) {
    const Weight a = matrixOf(only->a, ranks, in);
    multiply<Engine>(x.rows, ranks, {{&x, {&a, Right::Way::Forward}}}, Result{only->u, ranks});
    return;
  }
  const Scratch stack(ranks * in * 4), together(x.rows * ranks * 4);
  float* next = stack.as<float>();
  for (int64_t p = 0; p < count; p++) {
    const Adapter& adapter = parts[p].adapter;
    if (stacks(adapter)) next = std::copy(adapter.a, adapter.a + adapter.rank * in, next);
  }
  const Weight a = matrixOf(stack.as<float>(), ranks, in);
  multiply<Engine>(x.rows, ranks, {{&x, {&a, Right::Way::Forward}}}, Result{together.as<float>(), ranks});
  const float* column = together.as<float>();
  for (int64_t p = 0; p < count; p++) {
    const Adapter& adapter = parts[p].adapter;
    if (!stacks(adapter)) continue;
    for (int64_t t = 0; t < x.rows; t++) {
      std::copy(column + t * ranks, column + t * ranks + adapter.rank, adapter.u + t * adapter.rank);
    }
    column += adapter.rank;
  }
}

/** Packs x, and of every adapter without dropout makes u = x A^T and packs scale * u, while the rows are in the cache. */
template <typename Engine>
void packWithAdapters(const Activations& x, const LinearPart* parts, int64_t count, const Left<Engine>& left,
                      const std::vector<Left<Engine>>& ups) {
  struct Down {
    Dots<typename Engine::Source> a;
    Activations u;
    float* to;
    const Left<Engine>* up;
  };
  std::vector<Down> downs;
  downs.reserve(static_cast<size_t>(count));
  size_t next = 0;
  for (int64_t p = 0; p < count; p++) {
    const Adapter& adapter = parts[p].adapter;
    if (adapter.rank == 0) continue;
    const Left<Engine>& up = ups[next++];
    if (!stacks(adapter)) continue;
    downs.push_back({{adapter.a, adapter.rank, x.depth, x.depth, 1}, upOf(adapter, x.rows), adapter.u, &up});
  }
  parallelTasks(Left<Engine>::stretchesOf(x.rows), [&](int64_t index, int) {
    left.packStretch(x, index, [&](int64_t first, int64_t rows, bool) {
      for (const Down& down : downs) {
        const int64_t rank = down.u.depth;
        down.a.run(x.from + first * x.stride, rows, x.stride, 1, down.to + first * rank, rank);
        down.up->packRows(down.u, first, rows);
      }
    });
  });
}

template <typename Engine>
void stretch(const float* x, int64_t first, int64_t t, int64_t in, const LinearPart* parts, int64_t count) {
  std::vector<Left<Engine>> ups;
  std::vector<Weight> adapters;
  ups.reserve(static_cast<size_t>(count));
  adapters.reserve(static_cast<size_t>(count));
  int64_t ranks = 0;
  for (int64_t p = 0; p < count; p++) {
    const Adapter& adapter = parts[p].adapter;
    if (adapter.rank == 0) continue;
    ups.emplace_back(t, adapter.rank);
    adapters.push_back(matrixOf(adapter.b, parts[p].weight.rows, adapter.rank));
    if (stacks(adapter)) ranks += adapter.rank;
  }
  const Activations rows{x, t, in, in};
  Left<Engine> left(t, in);
  const bool narrow = ranks > 0 && ranks <= kMostOuterRanks;
  if (narrow) {
    packWithAdapters(rows, parts, count, left, ups);
  } else {
    left.pack(rows);
    stackedDown(left, in, parts, count);
  }
  Products<Engine> products;
  size_t next = 0;
  for (int64_t p = 0; p < count; p++) {
    const LinearPart& part = parts[p];
    const Adapter& adapter = part.adapter;
    std::vector<Term<Engine>> terms{{&left, {&part.weight, Right::Way::Forward}}};
    if (adapter.rank > 0) {
      const size_t index = next++;
      if (!stacks(adapter)) {
        Activations dropped = rows;
        dropped.dropout = &adapter.dropout;
        dropped.firstElement = first * in;
        const Left<Engine> masked(dropped);
        const Weight a = matrixOf(adapter.a, adapter.rank, in);
        multiply<Engine>(t, adapter.rank, {{&masked, {&a, Right::Way::Forward}}}, Result{adapter.u, adapter.rank});
      }
      if (!narrow || !stacks(adapter)) ups[index].pack(upOf(adapter, t));
      terms.push_back({&ups[index], {&adapters[index], Right::Way::Forward}});
    }
    products.add(t, part.weight.rows, std::move(terms),
                 Result{part.y, part.weight.rows, part.residual, part.weight.rows, part.bias});
  }
  products.run();
}

template <typename Engine>
void forward(const float* x, int64_t t, int64_t in, const LinearPart* parts, int64_t count) {
  const int64_t rowBytes = in * static_cast<int64_t>(sizeof(typename Engine::Element));
  const int64_t most = roundUp(std::max<int64_t>(1, kMostPackedBytes / rowBytes), Engine::kRows);
  std::vector<LinearPart> moved(parts, parts + count);
  for (int64_t first = 0; first < t; first += most) {
    const int64_t rows = std::min(most, t - first);
    stretch<Engine>(x + first * in, first, rows, in, moved.data(), count);
    for (LinearPart& part : moved) {
      part.y += rows * part.weight.rows;
      if (part.residual) part.residual += rows * part.weight.rows;
      if (part.adapter.rank > 0) part.adapter.u += rows * part.adapter.rank;
    }
  }
}

}  // namespace

void linearForward(Precision precision, const float* x, int64_t t, int64_t in, const LinearPart* parts, int64_t count) {
  if (t <= 0) return;
  if (t <= kMostVectorRows) return linearVectors(precision, x, t, in, parts, count);
  linearPacked(precision, x, t, in, parts, count);
}

void linearPacked(Precision precision, const float* x, int64_t t, int64_t in, const LinearPart* parts, int64_t count) {
  if (t <= 0) return;
  if (precision == Precision::BF16) return forward<HalfEngine>(x, t, in, parts, count);
  forward<PlainEngine>(x, t, in, parts, count);
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
