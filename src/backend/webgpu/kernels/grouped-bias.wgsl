// C[i] = bias_e for the expert e whose row i is: what its product is then added to. A workgroup a row.

struct Params { offsets: u32, bias: u32, c: u32, rows: u32, n: u32, experts: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> offsets: array<i32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  var e = 0u;
  while (e + 1u < p.experts && u32(offsets[p.offsets + e + 1u]) <= row) { e++; }
  for (var n = lane; n < p.n; n += 128u) { c[p.c + row * p.n + n] = bias[p.bias + e * p.n + n]; }
}
