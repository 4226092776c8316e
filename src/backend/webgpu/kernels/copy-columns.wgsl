// y[t, to + i] = x[t, from + i] for i below count; other columns of y stay as they are.

struct Params { x: u32, y: u32, n: u32, count: u32, width: u32, first: u32, targetWidth: u32, targetFirst: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at >= p.n) { continue; }
    let row = at / p.count;
    let column = at % p.count;
    y[p.y + row * p.targetWidth + p.targetFirst + column] = x[p.x + row * p.width + p.first + column];
  }
}
