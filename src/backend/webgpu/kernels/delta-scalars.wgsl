// dBeta = x.error, and what one token adds to the gradient of the decays' logs up to it: q.dq + k.read - k.written, left in
// dg for delta-decays.wgsl to sum. One workgroup a token's head.

struct Params { unit: u32, errors: u32, rows: u32, dg: u32, dBeta: u32, kHeads: u32, vHeads: u32, tokens: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> unit: array<f32>;
@group(0) @binding(2) var<storage, read> errors: array<f32>;
@group(0) @binding(3) var<storage, read> rows: array<f32>;
@group(0) @binding(4) var<storage, read_write> dg: array<f32>;
@group(0) @binding(5) var<storage, read_write> dBeta: array<f32>;

var<workgroup> sums: array<vec2f, 32>;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let gate = group.y * grid.x + group.x;
  if (gate >= p.tokens * p.vHeads) { return; }
  let t = gate / p.vHeads;
  let keyHead = gate % p.vHeads * p.kHeads / p.vHeads;
  let at = p.unit + (t * 2u * p.kHeads + keyHead) * KD;
  let size = p.tokens * p.vHeads * KD;
  var sum = vec2f(0.0);
  for (var i = lane; i < VD; i += 32u) {
    let source = p.errors + gate * VD + i;
    sum.x += errors[source] * errors[source + p.tokens * p.vHeads * VD];
  }
  for (var i = lane; i < KD; i += 32u) {
    let source = p.rows + gate * KD + i;
    sum.y += unit[at + i] * rows[source] + unit[at + p.kHeads * KD + i] * (rows[source + size] - rows[source + 2u * size]);
  }
  sums[lane] = sum;
  for (var half = 16u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  if (lane == 0u) {
    dBeta[p.dBeta + gate] = sums[0].x;
    dg[p.dg + gate] = sums[0].y;
  }
}
