// The gradients of the gates' parameters, added to: one workgroup a head. OUTPUT 0: of logDecay, 1: of timeBias.

struct Params { a: u32, decay: u32, bias: u32, dg: u32, sums: u32, tokens: u32, heads: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> logDecay: array<f32>;
@group(0) @binding(3) var<storage, read> timeBias: array<f32>;
@group(0) @binding(4) var<storage, read> dg: array<f32>;
@group(0) @binding(5) var<storage, read_write> sums: array<f32>;

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let rate = -exp(logDecay[p.decay + head]);
  var sum = 0.0;
  for (var t = lane; t < p.tokens; t += 64u) {
    let at = t * p.heads + head;
    let x = a[p.a + at] + timeBias[p.bias + head];
    sum += dg[p.dg + at] * rate * select(softplus(x), softplusSlope(x), OUTPUT == 1u);
  }
  partial[lane] = sum;
  for (var half = 32u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { partial[lane] += partial[lane + half]; }
  }
  if (lane == 0u) { sums[p.sums + head] += partial[0]; }
}
