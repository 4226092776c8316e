// Adds the partial products that gemm.wgsl made of slices of K, in order, and finishes them through the epilogue.
// A is the partials: slice s starts at a[s * splitStride], p.k slices.

@group(0) @binding(1) var<storage, read> a: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let quads = (p.n + 3u) / 4u;
  let at = (group.y * grid.x + group.x) * 64u + lane;
  let m = at / quads;
  let n = (at % quads) * 4u;
  if (m >= p.m) { return; }
  var sum = vec4f(0.0);
  for (var s = 0u; s < p.k; s++) {
    let origin = p.a + s * p.splitStride + m * p.n + n;
    for (var i = 0u; i < 4u; i++) { if (n + i < p.n) { sum[i] += a[origin + i]; } }
  }
  emit4(m, n, sum);
}
