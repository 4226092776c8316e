// dSinks[h] -= sum over rows of exp(sink - lse) * delta: a workgroup a head, its lanes' sums added in a tree.

struct Params { statistics: u32, sinks: u32, dSinks: u32, rows: u32, heads: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> statistics: array<vec2f>; // (lse, delta)
@group(0) @binding(2) var<storage, read> sinks: array<f32>;
@group(0) @binding(3) var<storage, read_write> dSinks: array<f32>;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let sink = sinks[p.sinks + head];
  var sum = 0.0;
  for (var row = lane; row < p.rows; row += 256u) {
    let known = statistics[p.statistics + row * p.heads + head];
    sum += exp(sink - known.x) * known.y;
  }
  sums[lane] = sum;
  for (var half = 128u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  if (lane == 0u) { dSinks[p.dSinks + head] -= sums[0]; }
}
