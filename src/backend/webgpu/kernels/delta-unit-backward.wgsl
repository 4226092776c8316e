// Gradients of queries and keys from those of their unit vectors: the sum over the value heads that read a key head, less
// what points along the vector, over its length. One workgroup a head's row, queries first.

struct Params { qkv: u32, rows: u32, dqkv: u32, count: u32, channels: u32, kHeads: u32, vHeads: u32, tokens: u32, scale: f32, epsilon: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<f32>;
@group(0) @binding(3) var<storage, read_write> dqkv: array<f32>;

var<workgroup> sums: array<vec2f, 32>;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.count) { return; }
  let t = row / (2u * p.kHeads);
  let head = row % (2u * p.kHeads);
  let isKey = head >= p.kHeads;
  let readers = p.vHeads / p.kHeads;
  let size = p.tokens * p.vHeads * KD;
  let at = t * p.channels + head * KD;
  let first = p.rows + (t * p.vHeads + head % p.kHeads * readers) * KD;
  var sum = vec2f(0.0);
  for (var i = lane; i < KD; i += 32u) {
    var grad = 0.0;
    for (var h = 0u; h < readers; h++) {
      let source = first + h * KD + i;
      if (isKey) { grad += rows[source + size] + rows[source + 2u * size]; } else { grad += rows[source]; }
    }
    let x = qkv[p.qkv + at + i];
    dqkv[p.dqkv + at + i] = grad;
    sum += x * vec2f(x, grad);
  }
  sums[lane] = sum;
  for (var half = 16u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  workgroupBarrier();
  let inverse = 1.0 / sqrt(sums[0].x + p.epsilon);
  let along = sums[0].y * inverse * inverse;
  let factor = select(p.scale, 1.0, isKey) * inverse;
  for (var i = lane; i < KD; i += 32u) {
    dqkv[p.dqkv + at + i] = (dqkv[p.dqkv + at + i] - qkv[p.qkv + at + i] * along) * factor;
  }
}
