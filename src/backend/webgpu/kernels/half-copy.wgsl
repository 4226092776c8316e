// y = x in f16, times a power of two when SCALED: the one that brings the largest magnitude (largest[0], by its bits) to
// [2^4, 2^5). Elements from n to "padded" become zero. One invocation a word, two elements.

struct Params { x: u32, largest: u32, y: u32, n: u32, padded: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> largest: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

fn element(i: u32, factor: f32) -> f32 {
  if (i >= p.n) { return 0.0; }
  return clamp(x[p.x + i] * factor, -65504.0, 65504.0);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  var factor = 1.0;
  if (SCALED == 1u) { factor = halfFactor(largest[p.largest]); }
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (2u * at < p.padded) { y[p.y + at] = pack2x16float(vec2f(element(2u * at, factor), element(2u * at + 1u, factor))); }
  }
}
