// dw += and dBias += of the convolution, from d, the gradient before its activation; a lane is one tap of one channel, or,
// as the tap behind the last, its bias. OUTPUT 0: dw, 1: dBias.

struct Params { x: u32, d: u32, segments: u32, sums: u32, count: u32, c: u32, taps: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> d: array<f32>;
@group(0) @binding(3) var<storage, read> segments: array<i32>;
@group(0) @binding(4) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = group.x * 64u + lane;
  let own = select(p.taps, 1u, OUTPUT == 1u);
  if (at >= p.c * own) { return; }
  let channel = at / own;
  let back = select(p.taps - 1u - at % own, 0u, OUTPUT == 1u);
  var sum = 0.0;
  for (var n = 0u; n < p.count; n++) {
    let start = u32(segments[p.segments + 4u * n]);
    let length = u32(segments[p.segments + 4u * n + 1u]);
    for (var t = back; t < length; t++) {
      let grad = d[p.d + (start + t) * p.c + channel];
      if (OUTPUT == 1u) {
        sum += grad;
      } else {
        sum += grad * x[p.x + (start + t - back) * p.c + channel];
      }
    }
  }
  sums[p.sums + at] += sum;
}
