// In place: z[slots[pair]] is read for dWeights[pair] = dy[t] . z and becomes weights[pair] dy[t]. A workgroup a pair.

struct Params { dy: u32, slots: u32, weights: u32, z: u32, dWeights: u32, pairs: u32, k: u32, width: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> slots: array<i32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> z: array<f32>;
@group(0) @binding(5) var<storage, read_write> dWeights: array<f32>;

var<workgroup> sums: array<f32, 128>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pair = group.y * grid.x + group.x;
  if (pair >= p.pairs) { return; }
  let source = p.dy + pair / p.k * p.width;
  let to = p.z + u32(slots[p.slots + pair]) * p.width;
  let weight = weights[p.weights + pair];
  var sum = 0.0;
  for (var c = lane; c < p.width; c += 128u) {
    let d = dy[source + c];
    sum += d * z[to + c];
    z[to + c] = weight * d;
  }
  sums[lane] = sum;
  for (var half = 64u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  if (lane == 0u) { dWeights[p.dWeights + pair] = sums[0]; }
}
