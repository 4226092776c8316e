// The soft cap of attention's scores, and its slope; CAPPED is 0 where there is none.

const NEAR = 0.35;

/// tanh x, whose built-in overflows on some devices and loses small arguments on others.
fn hyperbolicTangent(x: f32) -> f32 {
  let far = 1.0 - 2.0 / (1.0 + exp(min(2.0 * abs(x), 80.0)));
  let square = x * x;
  var near = 62.0 / 2835.0 - square * (1382.0 / 155925.0);
  near = near * square - 17.0 / 315.0;
  near = near * square + 2.0 / 15.0;
  near = near * square - 1.0 / 3.0;
  near = near * square * x + x;
  return select(far * sign(x), near, abs(x) < NEAR);
}

fn capped(score: f32) -> f32 {
  if (CAPPED == 0u) { return score; }
  return p.softcap * hyperbolicTangent(score / p.softcap);
}

fn capSlope(cappedScore: f32) -> f32 {
  if (CAPPED == 0u) { return 1.0; }
  let tangent = cappedScore / p.softcap;
  return 1.0 - tangent * tangent;
}
