// Operands of adapter-gradients.wgsl for up to two layers, all f32 with rows that start at multiples of four.

@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read> du: array<f32>;
@group(0) @binding(4) var<storage, read> dy0: array<vec4f>;
@group(0) @binding(5) var<storage, read> u0: array<f32>;
@group(0) @binding(6) var<storage, read> dy1: array<vec4f>;
@group(0) @binding(7) var<storage, read> u1: array<f32>;

fn x4(t: u32, column: u32, width: u32) -> vec4f {
  if (column >= width) { return vec4f(0.0); }
  return x[p.x + ((t * width + column) >> 2u)];
}

fn dy4(part: u32, t: u32, column: u32, width: u32) -> vec4f {
  if (column >= width) { return vec4f(0.0); }
  let at = (t * width + column) >> 2u;
  if (part == 0u) { return dy0[p.at3 + at]; }
  return dy1[p.at5 + at];
}

fn uOf(part: u32, at: u32) -> f32 {
  if (part == 0u) { return u0[p.at4 + at]; }
  return u1[p.at6 + at];
}
