// With v = shift + w: dx_c = r v_c dy_c - x_c r^3 / C * sum_j(x_j v_j dy_j), written or added; one workgroup of WG lanes a row.
// The gradient of w is column-sums.wgsl.

struct Params { x: u32, w: u32, rstd: u32, dy: u32, dx: u32, rows: u32, width: u32, accumulate: u32, shift: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> rstd: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

var<workgroup> sums: array<f32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let start = row * p.width;
  var sum = 0.0;
  for (var c = lane; c < p.width; c += WG) {
    sum += x[p.x + start + c] * (p.shift + w[p.w + c]) * dy[p.dy + start + c];
  }
  sums[lane] = sum;
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  workgroupBarrier();
  let r = rstd[p.rstd + row];
  let projection = sums[0] * r * r * r / f32(p.width);
  for (var c = lane; c < p.width; c += WG) {
    let at = start + c;
    var grad = r * (p.shift + w[p.w + c]) * dy[p.dy + at] - x[p.x + at] * projection;
    if (p.accumulate == 1u) { grad += dx[p.dx + at]; }
    dx[p.dx + at] = grad;
  }
}
