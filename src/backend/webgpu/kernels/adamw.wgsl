// One AdamW update in torch's order of operations (Loshchilov & Hutter 2019), gradients clipped by their total norm.
// decay = 1 - lr * weightDecay; stepSize = lr / (1 - beta1^step); rootCorrection = sqrt(1 - beta2^step).

struct Params {
  grads: u32, factor: u32, params: u32, m: u32, v: u32, n: u32, guarded: u32,
  beta1: f32, beta2: f32, rest1: f32, rest2: f32, decay: f32, stepSize: f32, rootCorrection: f32, epsilon: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> grads: array<f32>;
@group(0) @binding(2) var<storage, read> factors: array<f32>;
@group(0) @binding(3) var<storage, read_write> params: array<f32>;
@group(0) @binding(4) var<storage, read_write> m: array<f32>;
@group(0) @binding(5) var<storage, read_write> v: array<f32>;

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
      let first = p.beta1 * m[p.m + at] + p.rest1 * g;
      let second = p.beta2 * v[p.v + at] + p.rest2 * g * g;
      m[p.m + at] = first;
      v[p.v + at] = second;
      params[p.params + at] = params[p.params + at] * p.decay
        - p.stepSize * first / (sqrt(second) / p.rootCorrection + p.epsilon);
    }
  }
}
