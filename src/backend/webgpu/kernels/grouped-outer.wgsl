// C_e[i, j] += scale * sum over expert e's rows of A[row, i] B[row, j]: gradients of experts' weights and adapters. INDEX 1:
// B's row is b[index[row]]; ONES 1: B is a column of ones (biases). A thread an element; rows in their order.

struct Params {
  a: u32, index: u32, offsets: u32, c: u32, b: u32,
  m: u32, n: u32, experts: u32, scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> index: array<i32>;
@group(0) @binding(3) var<storage, read> offsets: array<i32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;
@group(0) @binding(5) var<storage, read> b: array<f32>;

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let e = group.z;
  let i = group.y * 16u + local.y;
  let j = group.x * 16u + local.x;
  if (i >= p.m || j >= p.n) { return; }
  let last = u32(offsets[p.offsets + e + 1u]);
  var sum = 0.0;
  for (var row = u32(offsets[p.offsets + e]); row < last; row++) {
    var other = 1.0;
    if (ONES == 0u) {
      var source = row;
      if (INDEX == 1u) { source = u32(index[p.index + row]); }
      other = b[p.b + source * p.n + j];
    }
    sum += a[p.a + row * p.m + i] * other;
  }
  c[p.c + (e * p.m + i) * p.n + j] += p.scale * sum;
}
