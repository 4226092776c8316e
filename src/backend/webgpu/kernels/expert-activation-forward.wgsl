// Forward pass of expert-activation.wgsl, four elements a thread.

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at >= p.n) { continue; }
    let source = p.x + at + at / p.width * p.width;
    y[p.y + at] = gated(x[source], x[source + p.width]).x;
  }
}
