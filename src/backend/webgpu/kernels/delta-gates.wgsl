// The gates of the delta rule: g = -exp(logDecay) softplus(a + timeBias) and beta = sigmoid(b), or, with BACKWARD, their
// gradients: first = dg to da, second = dBeta to db, in place. A lane is a token's head.

struct Params { a: u32, b: u32, decay: u32, bias: u32, first: u32, second: u32, count: u32, heads: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> logDecay: array<f32>;
@group(0) @binding(4) var<storage, read> timeBias: array<f32>;
@group(0) @binding(5) var<storage, read_write> first: array<f32>;
@group(0) @binding(6) var<storage, read_write> second: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * grid.x + group.x) * 256u + lane;
  if (i >= p.count) { return; }
  let head = i % p.heads;
  let x = a[p.a + i] + timeBias[p.bias + head];
  let rate = -exp(logDecay[p.decay + head]);
  let s = 1.0 / (1.0 + exp(-b[p.b + i]));
  if (BACKWARD == 1u) {
    first[p.first + i] *= rate * softplusSlope(x);
    second[p.second + i] *= s * (1.0 - s);
  } else {
    first[p.first + i] = rate * softplus(x);
    second[p.second + i] = s;
  }
}
