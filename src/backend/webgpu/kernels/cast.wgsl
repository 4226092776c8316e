// y = x between f32, bf16, f16 (and from f64). One invocation writes one 32-bit word, so a pair of 16-bit elements.
// FROM and TO: 0 f32, 1 bf16, 2 f16, 3 f64. x's offset counts elements (words of f64 are two), y's counts words.

struct Params { x: u32, y: u32, n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

fn element(i: u32) -> u32 {
  if (i >= p.n) { return 0u; }
  let at = p.x + i;
  if (FROM == 0u) { return x[at]; }
  if (FROM == 3u) { return f32FromF64(x[2u * at], x[2u * at + 1u]); }
  let half = (x[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu;
  if (FROM == 1u) { return half << 16u; }
  return f32FromF16(half);
}

fn half(bits: u32) -> u32 {
  if (TO == 1u) { return bf16FromF32(bits); }
  return f16FromF32(bits);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (TO == 0u) {
      if (at < p.n) { y[p.y + at] = element(at); }
    } else if (2u * at < p.n) {
      y[p.y + at] = half(element(2u * at)) | (half(element(2u * at + 1u)) << 16u);
    }
  }
}
