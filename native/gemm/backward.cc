// linearBackward: dx through frozen weights and adapters, and the gradients of what trains. Adapters of one call share
// the work: du of all parts stand side by side in one matrix [T, ranks], already multiplied by scale, from which both
// dx (as extra depth of the main product) and dA are made. Of low ranks, du and dB are made while dy is packed, so that
// it is read once; dB in parts, which are added up at the end beside dA. Their sums: dots.h, outer.h.
#include <algorithm>

#include "dots.h"
#include "engines.h"
#include "outer.h"
#include "product.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

bool drops(const Adapter& adapter) { return adapter.dropout.threshold != 0; }

template <typename Engine>
class Backward {
  using Element = typename Engine::Element;
  using Terms = std::vector<Term<Engine>>;

  /** dB of a part in as many pieces as stretches of rows, each [ranks, out]: rows `stride` apart, pieces `size`. */
  struct Sums {
    int64_t part, stretches, stride, size;
    Scratch memory;
  };

 public:
  Backward(const float* x, int64_t t, int64_t in, const LinearGradPart* parts, int64_t count)
      : x_(x), t_(t), in_(in), parts_(parts), count_(count), ranks_(0), width_(0) {
    for (int64_t p = 0; p < count; p++) {
      offsets_.push_back(ranks_);
      ranks_ += parts[p].adapter.rank;
      width_ += parts[p].weight.rows;
    }
  }

  void run(float* dx, bool accumulate) {
    bool wantsDown = dx != nullptr;
    for (int64_t p = 0; p < count_; p++) wantsDown |= parts_[p].adapter.dA != nullptr;
    const Scratch du(std::max<int64_t>(64, wantsDown ? t_ * ranks_ * 4 : 0));
    du_ = du.as<float>();
    if (dx || (wantsDown && ranks_ > 0)) inputGradient(dx, accumulate);
    gradientsOfA();
    narrowGradients();
    for (int64_t p = 0; p < count_; p++) {
      const LinearGradPart& part = parts_[p];
      if (part.adapter.rank > 0 && part.adapter.dB && !(wantsDown && isNarrow(part.adapter))) gradientOfB(part);
      if (part.dWeight) gradientOfWeight(part);
      if (part.dBias) gradientOfBias(part);
    }
  }

 private:
  /** du, and dx when asked for, in stretches of rows whose packed dy stays small. */
  void inputGradient(float* dx, bool accumulate) {
    const int64_t rowBytes = std::max<int64_t>(1, width_) * static_cast<int64_t>(sizeof(Element));
    const int64_t most = roundUp(std::max<int64_t>(1, kMostPackedBytes / rowBytes), Engine::kRows);
    for (int64_t first = 0; first < t_; first += most) stretch(first, std::min(most, t_ - first), dx, accumulate);
  }

  void stretch(int64_t first, int64_t rows, float* dx, bool accumulate) {
    std::vector<Left<Engine>> lefts, downs;  // of every part: dy, and du where dx goes through its adapter
    std::vector<Weight> adapters;
    const auto count = static_cast<size_t>(count_);
    lefts.reserve(count);
    downs.reserve(count);
    adapters.reserve(count);
    for (int64_t p = 0; p < count_; p++) {
      const Adapter& adapter = parts_[p].adapter;
      lefts.emplace_back(rows, parts_[p].weight.rows);
      downs.emplace_back(rows, std::max<int64_t>(1, adapter.rank));
      adapters.push_back(matrixOf(adapter.a, adapter.rank, in_));
    }
    packWithAdapters(first, rows, lefts, downs);
    Terms terms;
    for (int64_t p = 0; p < count_; p++) {
      const LinearGradPart& part = parts_[p];
      const auto index = static_cast<size_t>(p);
      if (!dx && part.adapter.rank == 0) continue;
      if (!isNarrow(part.adapter)) {
        lefts[index].pack(dyOf(p, first, rows));
        if (part.adapter.rank > 0) {
          down(p, first, rows, lefts[index]);
          downs[index].pack(duOf(p, first, rows));
        }
      }
      terms.push_back({&lefts[index], {&part.weight, Right::Way::Straight}});
    }
    if (!dx) return;
    for (size_t p = 0; p < count; p++) {
      const Adapter& adapter = parts_[p].adapter;
      if (adapter.rank > 0 && !drops(adapter)) terms.push_back({&downs[p], {&adapters[p], Right::Way::Straight}});
    }
    float* to = dx + first * in_;
    Products<Engine> products;
    products.add(rows, in_, std::move(terms), Result{to, in_, accumulate ? to : nullptr, in_});
    Region x;  // what dA is made of next
    if (x_) x = {reinterpret_cast<const char*>(x_ + first * in_), in_ * 4, in_ * 4, rows};
    products.run(x);
    for (int64_t p = 0; p < count_; p++) {
      if (parts_[p].adapter.rank > 0 && drops(parts_[p].adapter)) addDropped(p, first, rows, to);
    }
  }

  float* downAt(int64_t p, int64_t row) const { return du_ + row * ranks_ + offsets_[static_cast<size_t>(p)]; }
  Activations dyOf(int64_t p, int64_t first, int64_t rows) const {
    const int64_t out = parts_[p].weight.rows;
    return {parts_[p].dy + first * out, rows, out, out};
  }
  Activations duOf(int64_t p, int64_t first, int64_t rows) const {
    return {downAt(p, first), rows, parts_[p].adapter.rank, ranks_};
  }

  static bool isNarrow(const Adapter& adapter) { return adapter.rank > 0 && adapter.rank <= kMostOuterRanks; }

  /**
   * For parts with a narrow adapter: packs dy of rows [first, first + rows), and makes and packs their du, and their part
   * of dB = scale * dy^T u, from what the cache holds of dy.
   */
  void packWithAdapters(int64_t first, int64_t rows, const std::vector<Left<Engine>>& lefts,
                        const std::vector<Left<Engine>>& downs) {
    struct Work {
      int64_t part;
      Activations dy, du;
      Dots<typename Engine::Source> b;
      Narrow<typename Engine::Source> u;
      float* sums;  // of dB; null where B is frozen
      int64_t stride, size;
    };
    std::vector<Work> works;
    works.reserve(static_cast<size_t>(count_));
    const int64_t stretches = Left<Engine>::stretchesOf(rows);
    for (int64_t p = 0; p < count_; p++) {
      const Adapter& adapter = parts_[p].adapter;
      if (!isNarrow(adapter)) continue;
      const Activations dy = dyOf(p, first, rows);
      const int64_t rank = adapter.rank, wanted = adapter.dB ? rows : 0;  // of u, which may be missing where B is frozen
      works.push_back({p, dy, duOf(p, first, rows), {adapter.b, rank, dy.depth, 1, rank},
                       {adapter.u + first * rank, wanted, rank, rank, adapter.scale}, nullptr,
                       roundUp(dy.depth, kLanes), 0});  // sums come in whole vectors
      Work& work = works.back();
      work.size = work.u.padded() * work.stride;
      if (!adapter.dB) continue;
      sums_.push_back({p, stretches, work.stride, work.size, Scratch(stretches * work.size * 4)});
      work.sums = sums_.back().memory.template as<float>();
    }
    parallelTasks(stretches * static_cast<int64_t>(works.size()), [&](int64_t task, int) {
      const Work& work = works[static_cast<size_t>(task / stretches)];
      const int64_t index = task % stretches, out = work.dy.depth;
      const Adapter& adapter = parts_[work.part].adapter;
      const auto part = static_cast<size_t>(work.part);
      lefts[part].packStretch(work.dy, index, [&](int64_t at, int64_t n, bool begins) {
        const float* from = work.dy.from + at * out;
        work.b.run(from, n, out, adapter.scale, downAt(work.part, first + at), ranks_);
        downs[part].packRows(work.du, at, n);
        if (work.sums) work.u.addRun(from, out, at, n, out, work.sums + index * work.size, work.stride, begins);
      });
    });
  }

  /** dA and dB of narrow adapters, in one job. */
  void narrowGradients() const {
    struct Share {
      int64_t part;  // whose dB; or kAllA
      int64_t begin, end;
    };
    constexpr int64_t kAllA = -1, kRowsOfB = 256;
    using Down = Narrow<typename Engine::Source>;
    const bool wantsA = ranks_ <= kMostOuterRanks && wantsPlainA();
    const Down du(du_, wantsA ? t_ : 0, ranks_, ranks_, 1);
    const int64_t strip = Down::stripOf(in_);
    std::vector<Share> shares;
    for (int64_t c = 0; wantsA && c < in_; c += strip) shares.push_back({kAllA, c, std::min(in_, c + strip)});
    for (int64_t p = 0; p < count_; p++) {
      const int64_t out = parts_[p].weight.rows;
      const bool made = std::any_of(sums_.begin(), sums_.end(), [p](const Sums& s) { return s.part == p; });
      for (int64_t o = 0; made && o < out; o += kRowsOfB) shares.push_back({p, o, std::min(out, o + kRowsOfB)});
    }
    parallelTasks(static_cast<int64_t>(shares.size()), [&](int64_t task, int) {
      const auto& [part, begin, end] = shares[static_cast<size_t>(task)];
      if (part == kAllA) return addToA(du, begin, end - begin);
      for (const Sums& sums : sums_) {
        if (sums.part == part) addToB(sums, begin, end);
      }
    });
  }

  /** Adds up the parts of rows [begin, end) of dB. */
  void addToB(const Sums& sums, int64_t begin, int64_t end) const {
    const Adapter& adapter = parts_[sums.part].adapter;
    constexpr int64_t kTogether = 64;
    for (int64_t o = begin; o < end; o += kTogether) {
      const int64_t n = std::min(kTogether, end - o);
      for (int64_t r = 0; r < adapter.rank; r++) {
        float total[kTogether] = {};
        for (int64_t s = 0; s < sums.stretches; s++) {
          const float* from = sums.memory.template as<float>() + s * sums.size + r * sums.stride + o;
          for (int64_t i = 0; i < n; i++) total[i] += from[i];
        }
        for (int64_t i = 0; i < n; i++) adapter.dB[(o + i) * adapter.rank + r] += total[i];
      }
    }
  }

  /** dA += du^T x in columns [c, c + n), for all adapters without dropout. */
  void addToA(const Narrow<typename Engine::Source>& du, int64_t c, int64_t n) const {
    du.sumWith(x_, in_, c, n, [&](const float* sums, int64_t stride) {
      for (int64_t p = 0; p < count_; p++) {
        const Adapter& adapter = parts_[p].adapter;
        if (adapter.rank == 0 || !adapter.dA || drops(adapter)) continue;
        const float* from = sums + offsets_[static_cast<size_t>(p)] * stride;
        for (int64_t r = 0; r < adapter.rank; r++) {
          for (int64_t i = 0; i < n; i++) adapter.dA[r * in_ + c + i] += from[r * stride + i];
        }
      }
    });
  }

  /** du = scale * dy B. */
  void down(int64_t p, int64_t first, int64_t rows, const Left<Engine>& dy) const {
    const Adapter& adapter = parts_[p].adapter;
    const Weight b = matrixOf(adapter.b, parts_[p].weight.rows, adapter.rank);
    float* du = downAt(p, first);
    multiply<Engine>(rows, adapter.rank, {{&dy, {&b, Right::Way::Straight}}}, Result{du, ranks_});
    for (int64_t t = 0; t < rows; t++) {
      for (int64_t r = 0; r < adapter.rank; r++) du[t * ranks_ + r] *= adapter.scale;
    }
  }

  /** dx += dropout mask of (du A), a few rows at a time. */
  void addDropped(int64_t p, int64_t first, int64_t rows, float* dx) const {
    const Adapter& adapter = parts_[p].adapter;
    const Weight a = matrixOf(adapter.a, adapter.rank, in_);
    constexpr int64_t kMostBytes = int64_t{4} << 20;
    const int64_t most = roundUp(std::max<int64_t>(1, kMostBytes / (in_ * 4)), Engine::kRows);
    const Scratch through(std::min(most, rows) * in_ * 4);
    for (int64_t t0 = 0; t0 < rows; t0 += most) {
      const int64_t n = std::min(most, rows - t0);
      const Left<Engine> du(Activations{downAt(p, first + t0), n, adapter.rank, ranks_});
      multiply<Engine>(n, in_, {{&du, {&a, Right::Way::Straight}}}, Result{through.as<float>(), in_});
      parallelRange(n * in_, 4096, [&](int64_t begin, int64_t end, int) {
        applyDropout<true>(through.as<float>() + begin, (first + t0) * in_ + begin, end - begin, adapter.dropout,
                           dx + t0 * in_ + begin);
      });
    }
  }

  bool wantsPlainA() const {
    return std::any_of(parts_, parts_ + count_, [](const LinearGradPart& part) {
      return part.adapter.rank > 0 && part.adapter.dA && !drops(part.adapter);
    });
  }

  /** dA of adapters with dropout, or of so many ranks that they are a product. */
  void gradientsOfA() const {
    for (int64_t p = 0; p < count_; p++) {
      const Adapter& adapter = parts_[p].adapter;
      if (adapter.rank > 0 && adapter.dA && drops(adapter)) gradientOfDroppedA(p);
    }
    if (ranks_ <= kMostOuterRanks || !wantsPlainA()) return;
    // All du against x at once; the rows of parts that do not want them are left aside.
    const Left<Engine> du(Activations{du_, ranks_, t_, ranks_, true});
    const Weight x = matrixOf(x_, t_, in_);
    const Scratch all(ranks_ * in_ * 4);
    multiply<Engine>(ranks_, in_, {{&du, {&x, Right::Way::Straight}}}, Result{all.as<float>(), in_});
    for (int64_t p = 0; p < count_; p++) {
      const Adapter& adapter = parts_[p].adapter;
      if (adapter.rank == 0 || !adapter.dA || drops(adapter)) continue;
      const float* from = all.as<float>() + offsets_[static_cast<size_t>(p)] * in_;
      parallelRange(adapter.rank * in_, 16384, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; i++) adapter.dA[i] += from[i];
      });
    }
  }

  /** dA += du^T dropout(x), a few columns of x at a time. */
  void gradientOfDroppedA(int64_t p) const {
    const Adapter& adapter = parts_[p].adapter;
    const Left<Engine> du(Activations{downAt(p, 0), adapter.rank, t_, ranks_, true});
    constexpr int64_t kMostBytes = int64_t{8} << 20;
    const int64_t most = roundUp(std::max<int64_t>(1, kMostBytes / (t_ * 4)), Engine::kCols);
    const Scratch masked(t_ * std::min(most, in_) * 4);
    for (int64_t c = 0; c < in_; c += most) {
      const int64_t n = std::min(most, in_ - c);
      parallelRange(t_, std::max<int64_t>(1, 4096 / n), [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; t++) {
          applyDropout<false>(x_ + t * in_ + c, t * in_ + c, n, adapter.dropout, masked.as<float>() + t * n);
        }
      });
      const Weight x = matrixOf(masked.as<float>(), t_, n);
      multiply<Engine>(adapter.rank, n, {{&du, {&x, Right::Way::Straight}}},
                      Result{adapter.dA + c, in_, adapter.dA + c, in_});
    }
  }

  /** dB += scale * dy^T u, computed as its transpose: u is the narrow side. */
  void gradientOfB(const LinearGradPart& part) const {
    const Adapter& adapter = part.adapter;
    const int64_t out = part.weight.rows, rank = adapter.rank;
    Activations up{adapter.u, rank, t_, rank, true};
    up.factor = adapter.scale;
    const Left<Engine> u(up);
    const Weight dy = matrixOf(part.dy, t_, out);
    const Scratch transposed(rank * out * 4);
    const float* from = transposed.as<float>();
    multiply<Engine>(rank, out, {{&u, {&dy, Right::Way::Straight}}}, Result{transposed.as<float>(), out});
    parallelRange(out, std::max<int64_t>(1, 16384 / rank), [&](int64_t begin, int64_t end, int) {
      for (int64_t o = begin; o < end; o++) {
        for (int64_t r = 0; r < rank; r++) adapter.dB[o * rank + r] += from[r * out + o];
      }
    });
  }

  /** dW += dy^T x. */
  void gradientOfWeight(const LinearGradPart& part) const {
    const int64_t out = part.weight.rows;
    const Weight x = matrixOf(x_, t_, in_);
    const int64_t rowBytes = t_ * static_cast<int64_t>(sizeof(Element));
    const int64_t most = roundUp(std::max<int64_t>(1, kMostPackedBytes / rowBytes), Engine::kRows);
    for (int64_t o = 0; o < out; o += most) {
      const int64_t n = std::min(most, out - o);
      const Left<Engine> dy(Activations{part.dy + o, n, t_, out, true});
      float* to = part.dWeight + o * in_;
      multiply<Engine>(n, in_, {{&dy, {&x, Right::Way::Straight}}}, Result{to, in_, to, in_});
    }
  }

  void gradientOfBias(const LinearGradPart& part) const {
    const int64_t out = part.weight.rows;
    parallelRange(out, 64, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = 0; t < t_; t++) {
        const float* row = part.dy + t * out;
        for (int64_t o = begin; o < end; o++) part.dBias[o] += row[o];
      }
    });
  }

  const float* x_;
  int64_t t_, in_;
  const LinearGradPart* parts_;
  int64_t count_, ranks_, width_;
  std::vector<int64_t> offsets_;
  std::vector<Sums> sums_;
  float* du_ = nullptr;
};

}  // namespace

void linearBackward(Precision precision, const float* x, int64_t t, int64_t in, const LinearGradPart* parts,
                    int64_t count, float* dx, bool accumulate) {
  if (t <= 0) return;
  if (precision == Precision::BF16) {
    Backward<HalfEngine>(x, t, in, parts, count).run(dx, accumulate);
  } else {
    Backward<PlainEngine>(x, t, in, parts, count).run(dx, accumulate);
  }
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
