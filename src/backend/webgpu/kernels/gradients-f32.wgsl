// Operands of adapter-gradients.wgsl for up to two layers, all f32. Any alignment.

@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> du: array<f32>;
@group(0) @binding(4) var<storage, read> dy0: array<f32>;
@group(0) @binding(5) var<storage, read> u0: array<f32>;
@group(0) @binding(6) var<storage, read> dy1: array<f32>;
@group(0) @binding(7) var<storage, read> u1: array<f32>;

fn x4(t: u32, column: u32, width: u32) -> vec4f {
  var v = vec4f(0.0);
  for (var i = 0u; i < 4u; i++) {
    if (column + i < width) { v[i] = x[p.x + t * width + column + i]; }
  }
  return v;
}

fn dy4(part: u32, t: u32, column: u32, width: u32) -> vec4f {
  var v = vec4f(0.0);
  for (var i = 0u; i < 4u; i++) {
    let at = t * width + column + i;
    if (column + i < width) {
      if (part == 0u) { v[i] = dy0[p.at3 + at]; } else { v[i] = dy1[p.at5 + at]; }
    }
  }
  return v;
}

fn uOf(part: u32, at: u32) -> f32 {
  if (part == 0u) { return u0[p.at4 + at]; }
  return u1[p.at6 + at];
}
