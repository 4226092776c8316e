// y = x * factors + bias + residual, factors and bias by column; FACTORS, BIAS and RESIDUAL say which are there.

struct Params { x: u32, factors: u32, bias: u32, residual: u32, y: u32, n: u32, width: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> factors: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at >= p.n) { continue; }
    let column = at % p.width;
    var value = x[p.x + at];
    if (FACTORS == 1u) { value *= factors[p.factors + column]; }
    if (BIAS == 1u) { value += bias[p.bias + column]; }
    if (RESIDUAL == 1u) { value += residual[p.residual + at]; }
    y[p.y + at] = value;
  }
}
