// In place: dx = dx (1 - (y / cap)^2); on entry dx holds the gradient of y = cap tanh(x / cap).

struct Params { dx: u32, y: u32, n: u32, cap: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> dx: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at < p.n) {
      let share = y[p.y + at] / p.cap;
      dx[p.dx + at] *= 1.0 - share * share;
    }
  }
}
