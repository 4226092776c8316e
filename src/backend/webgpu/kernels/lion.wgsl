// One update of Lion (Chen et al. 2023): a step of the learning rate along the sign of a mix of moment and gradient, which is
// clipped by its total norm. decay = 1 - lr * weightDecay.

struct Params {
  grads: u32, factor: u32, params: u32, m: u32, n: u32, guarded: u32,
  beta1: f32, beta2: f32, rest1: f32, rest2: f32, decay: f32, stepSize: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> grads: array<f32>;
@group(0) @binding(2) var<storage, read> factors: array<f32>;
@group(0) @binding(3) var<storage, read_write> params: array<f32>;
@group(0) @binding(4) var<storage, read_write> m: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  var factor = 1.0;
  if (p.guarded == 1u) { factor = factors[p.factor]; }
  if (factor < 0.0) { return; }
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at < p.n) {
      let g = grads[p.grads + at] * factor;
      let first = m[p.m + at];
      let direction = sign(p.beta1 * first + p.rest1 * g);
      params[p.params + at] = params[p.params + at] * p.decay - p.stepSize * direction;
      m[p.m + at] = p.beta2 * first + p.rest2 * g;
    }
  }
}
