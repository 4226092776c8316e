// y[t] = residual[t] + sum over j of weights[t, j] z[slots[t, j]]; WEIGHTS and RESIDUAL say which are there. A workgroup a
// token.

struct Params { z: u32, slots: u32, weights: u32, residual: u32, y: u32, tokens: u32, k: u32, width: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>;
@group(0) @binding(2) var<storage, read> slots: array<i32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let token = group.y * grid.x + group.x;
  if (token >= p.tokens) { return; }
  for (var c = lane; c < p.width; c += 128u) {
    var sum = 0.0;
    for (var j = 0u; j < p.k; j++) {
      let pair = token * p.k + j;
      var value = z[p.z + u32(slots[p.slots + pair]) * p.width + c];
      if (WEIGHTS == 1u) { value *= weights[p.weights + pair]; }
      sum += value;
    }
    if (RESIDUAL == 1u) { sum += residual[p.residual + token * p.width + c]; }
    y[p.y + token * p.width + c] = sum;
  }
}
