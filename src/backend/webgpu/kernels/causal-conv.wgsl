// Depthwise causal convolution within segments; a lane is one token's channel. STATE: kStart is a row of state [row][taps]
// [c], and segments of one row, side by side, are one stretch of inputs. SILU: x * sigmoid(x) of the result. GRADIENT: y is
// dy times the slope there instead. Segments that see no state have their own tokens alone.

struct Params { x: u32, w: u32, bias: u32, segments: u32, state: u32, dy: u32, y: u32, c: u32, taps: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> segments: array<i32>;
@group(0) @binding(5) var<storage, read> state: array<f32>;
@group(0) @binding(6) var<storage, read> dy: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

fn part(n: u32, i: u32) -> u32 { return u32(segments[p.segments + 4u * n + i]); }

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let n = group.y;
  let at = group.x * 256u + lane;
  let token = at / p.c;
  let channel = at % p.c;
  if (token >= part(n, 1u)) { return; }
  var first = n;
  if (STATE == 1u) {
    while (first > 0u && part(first - 1u, 2u) == part(n, 2u)) { first -= 1u; }
  }
  let start = part(first, 0u);
  let row = part(n, 0u) + token;
  let before = row - start;
  let continues = STATE == 1u && part(first, 3u) > part(first, 1u);
  var sum = 0.0;
  if (BIAS == 1u) { sum = bias[p.bias + channel]; }
  for (var i = 0u; i < p.taps; i++) {
    let back = p.taps - 1u - i;
    var value = 0.0;
    if (back <= before) {
      value = x[p.x + (row - back) * p.c + channel];
    } else if (continues) {
      value = state[p.state + (part(n, 2u) * p.taps + p.taps + before - back) * p.c + channel];
    }
    sum += w[p.w + channel * p.taps + i] * value;
  }
  // The exponent is never positive: exp cannot overflow.
  let e = exp(-abs(sum));
  let s = select(1.0, e, sum < 0.0) / (1.0 + e);
  let to = row * p.c + channel;
  if (GRADIENT == 1u) {
    y[p.y + to] = dy[p.dy + to] * s * (1.0 + sum * (1.0 - s));
  } else if (SILU == 1u) {
    y[p.y + to] = sum * s;
  } else {
    y[p.y + to] = sum;
  }
}
