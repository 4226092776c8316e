// y = x * rstd * (shift + w) with rstd = 1 / sqrt(mean(x^2) + eps); one workgroup of WG lanes a row. Zhang & Sennrich 2019.

struct Params { x: u32, w: u32, y: u32, rstd: u32, rows: u32, width: u32, epsilon: f32, shift: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> rstd: array<f32>;

var<workgroup> sums: array<f32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let start = row * p.width;
  var sum = 0.0;
  for (var c = lane; c < p.width; c += WG) {
    let value = x[p.x + start + c];
    sum += value * value;
  }
  sums[lane] = sum;
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  workgroupBarrier();
  let r = 1.0 / sqrt(sums[0] / f32(p.width) + p.epsilon);
  if (lane == 0u) { rstd[p.rstd + row] = r; }
  for (var c = lane; c < p.width; c += WG) {
    y[p.y + start + c] = x[p.x + start + c] * r * (p.shift + w[p.w + c]);
  }
}
