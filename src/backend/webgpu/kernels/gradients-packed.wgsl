// Operands of adapter-gradients.wgsl for up to three layers: x f32 with rows that start at multiples of four, the dys one after
// another in one buffer as project-rows.wgsl packs them, "first" words of scales before each one's rows.

@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read> du: array<f32>;
@group(0) @binding(4) var<storage, read> packed: array<u32>;
@group(0) @binding(5) var<storage, read> u0: array<f32>;
@group(0) @binding(6) var<storage, read> u1: array<f32>;
@group(0) @binding(7) var<storage, read> u2: array<f32>;

fn x4(t: u32, column: u32, width: u32) -> vec4f {
  if (column >= width) { return vec4f(0.0); }
  return x[p.x + ((t * width + column) >> 2u)];
}

fn strideOf(outputs: u32) -> u32 { return ((outputs + 7u) / 8u) * 4u; }

fn dy4(part: u32, t: u32, column: u32, width: u32) -> vec4f {
  if (column >= width) { return vec4f(0.0); }
  var start = p.at3;
  if (part > 0u) { start += p.first + p.tokens * strideOf(p.outputs0); }
  if (part > 1u) { start += p.first + p.tokens * strideOf(p.outputs1); }
  let at = start + p.first + t * strideOf(width) + column / 2u;
  let inverse = bitcast<f32>(packed[start + 4u + t]);
  return vec4f(unpack2x16float(packed[at]), unpack2x16float(packed[at + 1u])) * inverse;
}

fn uOf(part: u32, at: u32) -> f32 {
  if (part == 0u) { return u0[p.at4 + at]; }
  if (part == 1u) { return u1[p.at5 + at]; }
  return u2[p.at6 + at];
}
