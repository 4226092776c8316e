// First stage of a sum over rows: partial[g, c] = sum of x[row, c] over the SPAN rows of group g. With NORM 1 it
// sums x * y * rstd[row], the gradient of an RMSNorm's weight, with NORM 2 x * y. One invocation a column, so loads are consecutive.

struct Params { x: u32, y: u32, rstd: u32, partial: u32, rows: u32, width: u32, span: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read> rstd: array<f32>;
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * 64u + lane;
  if (column >= p.width) { return; }
  let start = group.y * p.span;
  let end = min(p.rows, start + p.span);
  var sum = 0.0;
  for (var row = start; row < end; row++) {
    let at = row * p.width + column;
    var value = x[p.x + at];
    if (NORM > 0u) { value *= y[p.y + at]; }
    if (NORM == 1u) { value *= rstd[p.rstd + row]; }
    sum += value;
  }
  partial[p.partial + group.y * p.width + column] = sum;
}
