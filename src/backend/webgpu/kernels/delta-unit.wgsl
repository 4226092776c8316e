// Unit keys and scaled unit queries of the delta rule: unit [T][2 kHeads][KD], queries first. One workgroup a head's row.

struct Params { qkv: u32, unit: u32, rows: u32, channels: u32, kHeads: u32, scale: f32, epsilon: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read_write> unit: array<f32>;

var<workgroup> sums: array<f32, 32>;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let head = row % (2u * p.kHeads);
  let source = p.qkv + row / (2u * p.kHeads) * p.channels + head * KD;
  var sum = 0.0;
  for (var i = lane; i < KD; i += 32u) { sum += qkv[source + i] * qkv[source + i]; }
  sums[lane] = sum;
  for (var half = 16u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  workgroupBarrier();
  let factor = select(1.0, p.scale, head < p.kHeads) / sqrt(sums[0] + p.epsilon);
  for (var i = lane; i < KD; i += 32u) { unit[p.unit + row * KD + i] = qkv[source + i] * factor; }
}
