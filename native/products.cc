// Reads the calls of products: the lists of parts that linear and linearBackward are given, and the stacks of experts'
// weights that groupedLinear and its backward are, in the order of src/backend/cpu/linear-call.ts and grouped-call.ts.
#include "products.h"

#include <cstddef>
#include <vector>

namespace lowrank {
namespace {

Weight readWeight(Reader& in) {
  Weight weight{};
  weight.kind = in.get<Weight::Kind>();
  weight.rows = in.get<int64_t>();
  weight.cols = in.get<int64_t>();
  weight.data = in.get<const void*>();
  weight.codebook = in.get<const float*>();
  weight.blockSize = in.get<int64_t>();
  weight.absmax = in.get<const void*>();
  weight.nestedCodebook = in.get<const float*>();
  weight.nestedAbsmax = in.get<const float*>();
  weight.nestedBlockSize = in.get<int64_t>();
  weight.nestedOffset = in.get<float>();
  return weight;
}

Adapter readAdapter(Reader& in) {
  Adapter adapter{};
  adapter.rank = in.get<int64_t>();
  adapter.a = in.get<const float*>();
  adapter.b = in.get<const float*>();
  adapter.scale = in.get<float>();
  adapter.u = in.get<float*>();
  adapter.dA = in.get<float*>();
  adapter.dB = in.get<float*>();
  adapter.dropout.threshold = in.get<uint32_t>();
  adapter.dropout.keptScale = in.get<float>();
  adapter.dropout.seed = in.get<uint64_t>();
  adapter.dropout.stream = in.get<uint32_t>();
  return adapter;
}

WeightStack readStack(Reader& in) {
  WeightStack stack{};
  stack.experts = in.get<int64_t>();
  stack.first = readWeight(in);
  stack.offsets = in.get<const float*>();
  return stack;
}

GroupedRows readRows(Reader& in) {
  GroupedRows rows{};
  rows.count = in.get<int64_t>();
  rows.offsets = in.get<const int32_t*>();
  rows.index = in.get<const int32_t*>();
  rows.few = in.get<bool>();
  return rows;
}

/** Doubles that a part takes at least: a count beyond what the call holds is no count. */
bool tooMany(int64_t count) { return count < 0 || count > 4096; }

}  // namespace

bool callLinear(const LinearTable& table, Reader& in) {
  const auto precision = in.get<Precision>();
  const auto* x = in.get<const float*>();
  const auto t = in.get<int64_t>(), width = in.get<int64_t>(), count = in.get<int64_t>();
  if (tooMany(count)) return false;
  std::vector<LinearPart> parts(static_cast<size_t>(count));
  for (LinearPart& part : parts) {
    part.weight = readWeight(in);
    part.adapter = readAdapter(in);
    part.bias = in.get<const float*>();
    part.residual = in.get<const float*>();
    part.y = in.get<float*>();
  }
  if (!in.spent()) return false;
  table.linear(precision, x, t, width, parts.data(), count);
  return true;
}

bool callLinearBackward(const LinearTable& table, Reader& in) {
  const auto precision = in.get<Precision>();
  const auto* x = in.get<const float*>();
  const auto t = in.get<int64_t>(), width = in.get<int64_t>(), count = in.get<int64_t>();
  auto* dx = in.get<float*>();
  const auto accumulate = in.get<bool>();
  if (tooMany(count)) return false;
  std::vector<LinearGradPart> parts(static_cast<size_t>(count));
  for (LinearGradPart& part : parts) {
    part.weight = readWeight(in);
    part.adapter = readAdapter(in);
    part.dy = in.get<const float*>();
    part.dWeight = in.get<float*>();
    part.dBias = in.get<float*>();
  }
  if (!in.spent()) return false;
  table.linearBackward(precision, x, t, width, parts.data(), count, dx, accumulate);
  return true;
}

bool callGroupedLinear(const LinearTable& table, Reader& in) {
  const auto precision = in.get<Precision>();
  const auto* x = in.get<const float*>();
  const GroupedRows rows = readRows(in);
  GroupedPart part{};
  part.weights = readStack(in);
  part.adapter = readAdapter(in);
  part.bias = in.get<const float*>();
  part.y = in.get<float*>();
  if (!in.spent()) return false;
  table.grouped(precision, x, rows, part);
  return true;
}

bool callGroupedLinearBackward(const LinearTable& table, Reader& in) {
  const auto precision = in.get<Precision>();
  const auto* x = in.get<const float*>();
  const GroupedRows rows = readRows(in);
  GroupedPart part{};
  part.weights = readStack(in);
  part.adapter = readAdapter(in);
  part.dy = in.get<const float*>();
  part.dWeight = in.get<float*>();
  part.dBias = in.get<float*>();
  part.dx = in.get<float*>();
  if (!in.spent()) return false;
  table.groupedBackward(precision, x, rows, part);
  return true;
}

}  // namespace lowrank
