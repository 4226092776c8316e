// Backward pass of expert-activation.wgsl: x's rows become their gradients, four elements a thread.

@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at >= p.n) { continue; }
    let to = p.x + at + at / p.width * p.width;
    let slopes = gated(x[to], x[to + p.width]);
    x[to] = y[p.y + at] * slopes.y;
    x[to + p.width] = y[p.y + at] * slopes.z;
  }
}
