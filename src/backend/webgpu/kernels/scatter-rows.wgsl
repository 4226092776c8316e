// y[index[i]] = x[i]. Only rows [first, first + count) of y are bound; other indices are skipped.

struct Params { x: u32, index: u32, y: u32, rows: u32, width: u32, first: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> index: array<i32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let to = u32(index[p.index + row]) - p.first;
  if (to >= p.count) { return; }
  for (var c = lane; c < p.width; c += 128u) {
    y[p.y + to * p.width + c] = x[p.x + row * p.width + c];
  }
}
