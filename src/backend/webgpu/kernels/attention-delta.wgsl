// statistics[t, h] = (lse, delta) with delta = sum over d of dOut * out, which both halves of attention's backward pass
// subtract; side by side so that those halves need one binding less. 16 lanes a row.

struct Params { out: u32, dOut: u32, lse: u32, statistics: u32, rows: u32, width: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> out: array<f32>;
@group(0) @binding(2) var<storage, read> dOut: array<f32>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> statistics: array<vec2f>;

var<workgroup> sums: array<f32, 128>;

@compute @workgroup_size(16, 8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let row = (group.y * grid.x + group.x) * 8u + local.y;
  var sum = 0.0;
  if (row < p.rows) {
    for (var d = local.x; d < p.width; d += 16u) {
      sum += out[p.out + row * p.width + d] * dOut[p.dOut + row * p.width + d];
    }
  }
  let at = local.y * 16u + local.x;
  sums[at] = sum;
  for (var half = 8u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local.x < half) { sums[at] += sums[at + half]; }
  }
  if (local.x == 0u && row < p.rows) { statistics[p.statistics + row] = vec2f(lse[p.lse + row], sums[at]); }
}
