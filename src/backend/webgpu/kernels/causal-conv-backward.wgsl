// dx of the convolution, from d, the gradient before its activation; a lane is one token's channel.

struct Params { d: u32, w: u32, segments: u32, dx: u32, c: u32, taps: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> d: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> segments: array<i32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = group.x * 256u + lane;
  let token = at / p.c;
  let channel = at % p.c;
  let start = u32(segments[p.segments + 4u * group.y]);
  let length = u32(segments[p.segments + 4u * group.y + 1u]);
  if (token >= length) { return; }
  var sum = 0.0;
  for (var i = 0u; i < p.taps; i++) {
    let later = token + p.taps - 1u - i;
    if (later < length) {
      sum += d[p.d + (start + later) * p.c + channel] * w[p.w + channel * p.taps + i];
    }
  }
  dx[p.dx + (start + token) * p.c + channel] = sum;
}
