// y = activation(gate) * up of rows whose gate stands before their up; with CLAMPED 1, (up + 1) gate sigmoid(alpha gate)
// within limits. BACKWARD 1: the row's gradients by gate and up in its place (y is dy then).

struct Params { x: u32, y: u32, n: u32, width: u32, limit: f32, alpha: f32 }
@group(0) @binding(0) var<uniform> p: Params;

/// (value, slope by gate, slope by up)
fn gated(gate: f32, up: f32) -> vec3f {
  if (CLAMPED == 0u) {
    let act = activate(gate);
    return vec3f(act.x * up, act.y * up, act.x);
  }
  let g = min(gate, p.limit);
  let u = clamp(up, -p.limit, p.limit);
  let s = logistic(p.alpha * g);
  let byGate = select((u + 1.0) * (s + p.alpha * g * s * (1.0 - s)), 0.0, gate > p.limit);
  return vec3f((u + 1.0) * g * s, byGate, select(g * s, 0.0, abs(up) > p.limit));
}
