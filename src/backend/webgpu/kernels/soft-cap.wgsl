// In place: y = cap tanh(y / cap).

struct Params { y: u32, n: u32, cap: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

/// tanh x; as a series where the quotient would cancel.
fn hyperbolicTangent(x: f32) -> f32 {
  if (abs(x) < 0.25) {
    let s = x * x;
    return x + x * s * (-0.3333333333333333 + s * (0.13333333333333333 + s * (-0.05396825396825397 + s * 0.021869488536155203)));
  }
  let e = exp(-2.0 * abs(x));
  return sign(x) * (1.0 - e) / (1.0 + e);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at < p.n) { y[p.y + at] = p.cap * hyperbolicTangent(y[p.y + at] / p.cap); }
  }
}
