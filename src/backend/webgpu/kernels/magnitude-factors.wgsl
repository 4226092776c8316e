// Norms of the rows of W + scale B A from squares, wa = A W^T and bGram = B A A^T, and magnitude / norm; an invocation a
// row. Liu et al. 2024, "DoRA".

struct Params {
  magnitude: u32, squares: u32, b: u32, bGram: u32, wa: u32, factors: u32, norms: u32, outputs: u32, rank: u32, scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> magnitude: array<f32>;
@group(0) @binding(2) var<storage, read> squares: array<f32>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read> bGram: array<f32>;
@group(0) @binding(5) var<storage, read> wa: array<f32>;
@group(0) @binding(6) var<storage, read_write> factors: array<f32>;
@group(0) @binding(7) var<storage, read_write> norms: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x * 64u + lane;
  if (row >= p.outputs) { return; }
  var sum = squares[p.squares + row];
  for (var k = 0u; k < p.rank; k++) {
    let at = row * p.rank + k;
    let slope = 2.0 * p.scale * wa[p.wa + k * p.outputs + row] + p.scale * p.scale * bGram[p.bGram + at];
    sum += slope * b[p.b + at];
  }
  let norm = sqrt(max(sum, 0.0));
  norms[p.norms + row] = select(1.0, norm, sum > 0.0);
  factors[p.factors + row] = select(0.0, magnitude[p.magnitude + row] / norm, sum > 0.0);
}
