// The gated activation of an MLP, y = act(gate) * up, and its gradients; act is SiLU, GELU by the normal
// distribution, or GELU's tanh form (Hendrycks & Gimpel 2016; Shazeer 2020); and the soft cap of logits. Experts have
// gate and up side by side in a row of one product (expertActivation). Each element is read whole before it is written, so
// outputs may be the inputs' own memory. Not here: the functions themselves (simd-math.h).
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

template <class Act>
void forwardRows(const float* x, float* y, int64_t n, int64_t f, const Act& act) {
  parallelRange(n, larger(1, kGrain / larger(1, f)), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const float *gate = x + row * 2 * f, *up = gate + f;
      eachVector(0, f, [&](int64_t i, const auto& memory) {
        memory.store(y + row * f + i, act.value(memory.load(gate + i), memory.load(up + i)));
      });
    }
  });
}

template <class Act>
void backwardRows(const float* x, const float* dy, float* dx, int64_t n, int64_t f, const Act& act) {
  parallelRange(n, larger(1, kGrain / larger(1, f)), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const float *gate = x + row * 2 * f, *up = gate + f;
      float* to = dx + row * 2 * f;
      eachVector(0, f, [&](int64_t i, const auto& memory) {
        const Vec d = memory.load(dy + row * f + i);
        const Slope slopes = act.slopes(memory.load(gate + i), memory.load(up + i));
        memory.store(to + i, d * slopes.value);
        memory.store(to + f + i, d * slopes.slope);
      });
    }
  });
}

/** Of gate and up: their product, and its slopes by gate (`value`) and by up (`slope`). */
template <class Act>
struct Gated {
  LOWRANK_INLINE Vec value(Vec gate, Vec up) const { return Act::value(gate) * up; }
  LOWRANK_INLINE Slope slopes(Vec gate, Vec up) const {
    const Slope act = Act::both(gate);
    return {up * act.slope, act.value};
  }
};

/** (up + 1) gate sigmoid(alpha gate) within limits, where gradients stop; as gpt-oss has it. */
struct Clamped {
  float limit, alpha;
  LOWRANK_INLINE Vec value(Vec gate, Vec up) const {
    const Vec most = broadcast(limit), g = minimum(most, gate), u = maximum(-most, minimum(most, up));
    return (u + 1.0f) * (g * logistic(g * alpha).value);
  }
  LOWRANK_INLINE Slope slopes(Vec gate, Vec up) const {
    const Vec most = broadcast(limit), g = minimum(most, gate), u = maximum(-most, minimum(most, up));
    const Logistic s = logistic(g * alpha);
    const Vec byGate = (u + 1.0f) * (s.value * multiplyAdd(g * alpha, s.rest, broadcast(1.0f)));
    const Vec byUp = g * s.value, none = broadcast(0.0f);
    return {gate > most ? none : byGate, ((up > most) | (up < -most)) ? none : byUp};
  }
};

}  // namespace

void expertActivation(Activation kind, float limit, float alpha, const float* x, float* y, int64_t n, int64_t f) {
  if (limit > 0) return forwardRows(x, y, n, f, Clamped{limit, alpha});
  switch (kind) {
    case Activation::Silu: return forwardRows(x, y, n, f, Gated<Silu>{});
    case Activation::Gelu: return forwardRows(x, y, n, f, Gated<Gelu>{});
    case Activation::GeluTanh: return forwardRows(x, y, n, f, Gated<GeluTanh>{});
    case Activation::Sigmoid: return forwardRows(x, y, n, f, Gated<Sigmoid>{});
    case Activation::Identity: return forwardRows(x, y, n, f, Gated<Identity>{});
  }
}

void expertActivationBackward(Activation kind, float limit, float alpha, const float* x, const float* dy, float* dx,
                              int64_t n, int64_t f) {
  if (limit > 0) return backwardRows(x, dy, dx, n, f, Clamped{limit, alpha});
  switch (kind) {
    case Activation::Silu: return backwardRows(x, dy, dx, n, f, Gated<Silu>{});
    case Activation::Gelu: return backwardRows(x, dy, dx, n, f, Gated<Gelu>{});
    case Activation::GeluTanh: return backwardRows(x, dy, dx, n, f, Gated<GeluTanh>{});
    case Activation::Sigmoid: return backwardRows(x, dy, dx, n, f, Gated<Sigmoid>{});
    case Activation::Identity: return backwardRows(x, dy, dx, n, f, Gated<Identity>{});
  }
}

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
