// The gated activation of an MLP, y = act(gate) * up, and its gradients; act is SiLU, GELU by the normal
// distribution, or GELU's tanh form (Hendrycks & Gimpel 2016; Shazeer 2020); and the soft cap of logits. Each element is read whole before it is
// written, so outputs may be the inputs' own memory. Not here: the functions themselves (simd-math.h).
#include "../simd-math.h"
#include "../threads.h"
#include "declarations.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kGrain = 4096;

// Each activation: its value, and its value with its slope.
struct Slope {
  Vec value, slope;
};

struct Silu {
  static LOWRANK_INLINE Vec value(Vec x) { return x * logistic(x).value; }
  static LOWRANK_INLINE Slope both(Vec x) {
    const Logistic s = logistic(x);
    return {x * s.value, s.value * multiplyAdd(x, s.rest, broadcast(1.0f))};
  }
};

struct Gelu {
  static LOWRANK_INLINE Vec value(Vec x) { return x * normalDistribution(x).cumulative; }
  static LOWRANK_INLINE Slope both(Vec x) {
    const Normal n = normalDistribution(x);
    return {x * n.cumulative, multiplyAdd(x, n.density, n.cumulative)};
  }
};

/** (1 + tanh u) / 2 is the logistic function of 2u; u = sqrt(2 / pi) (x + 0.044715 x^3). */
struct GeluTanh {
  static constexpr float kLinear = 1.5957691216057308f, kCubic = 0.0713548162726009f;
  static LOWRANK_INLINE Vec twice(Vec x) { return x * multiplyAdd(x * x, broadcast(kCubic), broadcast(kLinear)); }
  static LOWRANK_INLINE Vec value(Vec x) { return x * logistic(twice(x)).value; }
  static LOWRANK_INLINE Slope both(Vec x) {
    // Past |x| = 1e6 the curve is flat in f32; held there so that x^3 stays finite.
    const Vec near = minimum(broadcast(1e6f), maximum(broadcast(-1e6f), x));
    const Logistic s = logistic(twice(near));
    const Vec inner = near * multiplyAdd(near * near, broadcast(3 * kCubic), broadcast(kLinear));
    return {x * s.value, s.value * multiplyAdd(inner, s.rest, broadcast(1.0f))};
  }
};

struct Sigmoid {
  static LOWRANK_INLINE Vec value(Vec x) { return logistic(x).value; }
  static LOWRANK_INLINE Slope both(Vec x) {
    const Logistic s = logistic(x);
    return {s.value, s.value * s.rest};
  }
};

struct Identity {
  static LOWRANK_INLINE Vec value(Vec x) { return x; }
  static LOWRANK_INLINE Slope both(Vec x) { return {x, broadcast(1.0f)}; }
};

template <class Act>
void forward(const float* gate, const float* up, float* y, int64_t n) {
  parallelRange(n, kGrain, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) {
      memory.store(y + i, Act::value(memory.load(gate + i)) * memory.load(up + i));
    });
  });
}

template <class Act>
void backward(const float* gate, const float* up, const float* dy, float* dGate, float* dUp, int64_t n) {
  parallelRange(n, kGrain, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) {
      const Vec u = memory.load(up + i), d = memory.load(dy + i);
      const Slope act = Act::both(memory.load(gate + i));
      memory.store(dGate + i, d * u * act.slope);
      memory.store(dUp + i, d * act.value);
    });
  });
}

}  // namespace

void gatedActivation(Activation kind, const float* gate, const float* up, float* y, int64_t n) {
  switch (kind) {
    case Activation::Silu: return forward<Silu>(gate, up, y, n);
    case Activation::Gelu: return forward<Gelu>(gate, up, y, n);
    case Activation::GeluTanh: return forward<GeluTanh>(gate, up, y, n);
    case Activation::Sigmoid: return forward<Sigmoid>(gate, up, y, n);
    case Activation::Identity: return forward<Identity>(gate, up, y, n);
  }
}

void gatedActivationBackward(Activation kind, const float* gate, const float* up, const float* dy, float* dGate,
                             float* dUp, int64_t n) {
  switch (kind) {
    case Activation::Silu: return backward<Silu>(gate, up, dy, dGate, dUp, n);
    case Activation::Gelu: return backward<Gelu>(gate, up, dy, dGate, dUp, n);
    case Activation::GeluTanh: return backward<GeluTanh>(gate, up, dy, dGate, dUp, n);
    case Activation::Sigmoid: return backward<Sigmoid>(gate, up, dy, dGate, dUp, n);
    case Activation::Identity: return backward<Identity>(gate, up, dy, dGate, dUp, n);
  }
}

void softCap(const float* x, float cap, float* y, int64_t n) {
  const Vec inverse = broadcast(1.0f / cap);
  parallelRange(n, kGrain, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) {
      memory.store(y + i, hyperbolicTangent(memory.load(x + i) * inverse) * cap);
    });
  });
}

void softCapBackward(const float* y, float cap, const float* dy, float* dx, int64_t n) {
  const Vec inverse = broadcast(1.0f / cap);
  parallelRange(n, kGrain, [&](int64_t begin, int64_t end, int) {
    eachVector(begin, end, [&](int64_t i, const auto& memory) {
      const Vec share = memory.load(y + i) * inverse;
      memory.store(dx + i, memory.load(dy + i) * (1.0f - share * share));
    });
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
