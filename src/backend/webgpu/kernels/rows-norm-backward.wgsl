// Rows of project-rows.wgsl made by rms-norm-backward.wgsl's formula, which are written to dx besides, or added to what is
// there where own1 is 1; own0 is the shift.

@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read> w: array<vec4f>;
@group(0) @binding(5) var<storage, read> rstd: array<f32>;
@group(0) @binding(6) var<storage, read> dy: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> dx: array<vec4f>;

var<private> projection: f32;
var<private> rowScale: f32;

fn weightAt(c: u32) -> vec4f { return bitcast<f32>(p.own0) + w[sourceAt(1u) + (c >> 2u)]; }

fn prepareRow(row: u32, lane: u32) {
  var sum = 0.0;
  if (row < p.rows) {
    for (var c = (lane % 16u) * 4u; c < p.width; c += 64u) {
      let at = (row * p.width + c) >> 2u;
      sum += dot(x[sourceAt(0u) + at] * weightAt(c), dy[sourceAt(3u) + at]);
    }
    rowScale = rstd[sourceAt(2u) + row];
  }
  projection = rowSum(lane, sum) * rowScale * rowScale * rowScale / f32(p.width);
}

fn make4(output: u32, row: u32, c: u32) -> vec4f {
  if (row >= p.rows || c >= p.width) { return vec4f(0.0); }
  let at = (row * p.width + c) >> 2u;
  let to = sourceAt(4u) + at;
  var grad = rowScale * weightAt(c) * dy[sourceAt(3u) + at] - x[sourceAt(0u) + at] * projection;
  if (p.own1 == 1u) { grad += dx[to]; }
  dx[to] = grad;
  return grad;
}

/// What this lane wrote.
fn read4(output: u32, row: u32, c: u32) -> vec4f {
  if (row >= p.rows || c >= p.width) { return vec4f(0.0); }
  return dx[sourceAt(4u) + ((row * p.width + c) >> 2u)];
}
