// Rows of project-rows.wgsl made by rms-norm.wgsl's formula, which are written to y besides: own0 is epsilon, own1 the shift.

@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> rstd: array<f32>;
@group(0) @binding(next) var<uniform> w: array<vec4f, WIDTH4>;

var<private> rowScale: f32;

fn prepareRow(row: u32, lane: u32) {
  var sum = 0.0;
  if (row < p.rows) {
    for (var c = (lane % 16u) * 4u; c < p.width; c += 64u) {
      let v = x[sourceAt(0u) + ((row * p.width + c) >> 2u)];
      sum += dot(v, v);
    }
  }
  rowScale = 1.0 / sqrt(rowSum(lane, sum) / f32(p.width) + bitcast<f32>(p.own0));
  if (row < p.rows && lane % 16u == 0u) { rstd[sourceAt(2u) + row] = rowScale; }
}

fn make4(output: u32, row: u32, c: u32) -> vec4f {
  if (row >= p.rows || c >= p.width) { return vec4f(0.0); }
  let at = (row * p.width + c) >> 2u;
  let v = x[sourceAt(0u) + at] * rowScale * (bitcast<f32>(p.own1) + w[c >> 2u]);
  y[sourceAt(1u) + at] = v;
  return v;
}

/// What this lane wrote.
fn read4(output: u32, row: u32, c: u32) -> vec4f {
  if (row >= p.rows || c >= p.width) { return vec4f(0.0); }
  return y[sourceAt(1u) + ((row * p.width + c) >> 2u)];
}
