// y = x / (1 - p) where the mask keeps an element, else 0. Goes with multiply-high.wgsl and philox.wgsl; an invocation has
// the four elements of one block of random words.

struct Params {
  x: u32, y: u32, n: u32, first: u32, seedLow: u32, seedHigh: u32, stream: u32, threshold: u32, keepScale: f32, rounds: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + 4u * lane;
  let words = philox((p.first + start) >> 2u, p.stream, p.seedLow, p.seedHigh, p.rounds);
  for (var i = 0u; i < 4u; i++) {
    let at = start + i;
    if (at < p.n) { y[p.y + at] = select(0.0, x[p.x + at] * p.keepScale, words[i] >= p.threshold); }
  }
}
