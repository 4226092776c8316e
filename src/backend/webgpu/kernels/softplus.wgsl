// log(1 + e^x) and its slope, as torch has them: x itself past 20.

fn softplus(x: f32) -> f32 {
  if (x > 20.0) { return x; }
  let e = exp(x);
  // The logarithm of a sum near 1 would lose what is added to it.
  if (e < 0.01) { return e * (1.0 - e * (0.5 - e * (0.33333333 - 0.25 * e))); }
  return log(1.0 + e);
}

fn softplusSlope(x: f32) -> f32 { return select(1.0 / (1.0 + exp(-x)), 1.0, x > 20.0); }
