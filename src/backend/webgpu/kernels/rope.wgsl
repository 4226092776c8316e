// Rotary position embedding in "rotate half" order, in place: y [T, H, D]; direction 1 turns forward, -1 back.
// Su et al. 2021. One invocation a pair (i, i + half); elements of a head from 2 half on stay.

struct Params { positions: u32, cos: u32, sin: u32, y: u32, pairs: u32, heads: u32, width: u32, half: u32, direction: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> positions: array<i32>;
@group(0) @binding(2) var<storage, read> cosines: array<f32>;
@group(0) @binding(3) var<storage, read> sines: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pair = (group.y * grid.x + group.x) * 256u + lane;
  if (pair >= p.pairs) { return; }
  let i = pair % p.half;
  let row = pair / p.half; // token * heads + head
  let angle = u32(positions[p.positions + row / p.heads]) * p.half + i;
  let c = cosines[p.cos + angle];
  let s = p.direction * sines[p.sin + angle];
  let at = p.y + row * p.width + i;
  let low = y[at];
  let high = y[at + p.half];
  y[at] = low * c - high * s;
  y[at + p.half] = high * c + low * s;
}
