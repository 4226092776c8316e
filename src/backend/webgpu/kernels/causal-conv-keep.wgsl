// The last taps inputs of every row of state that segments of a pass go on with, for the next pass; a lane is a channel
// of the last segment of its row.

struct Params { x: u32, segments: u32, state: u32, count: u32, c: u32, taps: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> segments: array<i32>;
@group(0) @binding(3) var<storage, read_write> state: array<f32>;

fn part(n: u32, i: u32) -> u32 { return u32(segments[p.segments + 4u * n + i]); }

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let n = group.y;
  let channel = group.x * 256u + lane;
  if (channel >= p.c) { return; }
  if (n + 1u < p.count && part(n + 1u, 2u) == part(n, 2u)) { return; }
  var first = n;
  while (first > 0u && part(first - 1u, 2u) == part(n, 2u)) { first -= 1u; }
  let start = part(first, 0u);
  let length = part(n, 0u) + part(n, 1u) - start;
  let continues = part(first, 3u) > part(first, 1u);
  let own = p.state + part(n, 2u) * p.taps * p.c + channel;
  // What moves comes from above, so rows may be written in order.
  for (var i = 0u; i < p.taps; i++) {
    var value = 0.0;
    if (length + i >= p.taps) {
      value = x[p.x + (start + length + i - p.taps) * p.c + channel];
    } else if (continues) {
      value = state[own + (length + i) * p.c];
    }
    state[own + i * p.c] = value;
  }
}
