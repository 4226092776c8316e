// Value and slope of the gate's activation. ACTIVATION: 0 silu, 1 gelu (exact), 2 geluTanh, 3 identity, 4 sigmoid.

/// Complementary error function of t >= 0 over exp(-t^2): Chebyshev fit, relative error below 1.2e-7.
/// Press et al., "Numerical Recipes", section 6.2.
fn erfcScaled(t: f32) -> f32 {
  let u = 1.0 / (1.0 + 0.5 * t);
  return u * exp(-1.26551223 + u * (1.00002368 + u * (0.37409196 + u * (0.09678418 + u * (-0.18628806
    + u * (0.27886807 + u * (-1.13520398 + u * (1.48851587 + u * (-0.82215223 + u * 0.17087277)))))))));
}

/// Standard normal distribution function.
fn normalBelow(x: f32) -> f32 {
  let t = abs(x) * 0.7071067811865476;
  let tail = 0.5 * erfcScaled(t) * exp(-t * t);
  return select(1.0 - tail, tail, x < 0.0);
}

fn logistic(x: f32) -> f32 {
  // The exponent is never positive: exp cannot overflow.
  let e = exp(-abs(x));
  return select(1.0, e, x < 0.0) / (1.0 + e);
}

/// (act(x), act'(x))
fn activate(x: f32) -> vec2f {
  if (ACTIVATION == 0u) {
    let s = logistic(x);
    return vec2f(x * s, s * (1.0 + x * (1.0 - s)));
  }
  if (ACTIVATION == 1u) {
    let below = normalBelow(x);
    return vec2f(x * below, below + x * exp(-0.5 * x * x) * 0.3989422804014327);
  }
  if (ACTIVATION == 3u) { return vec2f(x, 1.0); }
  if (ACTIVATION == 4u) {
    let s = logistic(x);
    return vec2f(s, s * (1.0 - s));
  }
  // tanh(z) = 2 logistic(2z) - 1
  let c = 0.7978845608028654;
  let z = c * (x + 0.044715 * x * x * x);
  let s = logistic(2.0 * z);
  let slope = 2.0 * s * (1.0 - s) * c * (1.0 + 3.0 * 0.044715 * x * x);
  return vec2f(x * s, s + x * slope);
}
