// AdamW on moments in 8 bits (Dettmers et al. 2022): a workgroup takes a block of 256 elements, one a lane, uses its moments
// in full and rounds them to the nearest codes of their maps. An element whose gradient is not finite keeps its parameter
// and restarts its moments. stepSize = lr sqrt(1 - beta2^step) / (1 - beta1^step); epsilon comes scaled by that root.

struct Params {
  grads: u32, factor: u32, params: u32, mCodes: u32, vCodes: u32, mAbsmax: u32, vAbsmax: u32,
  n: u32, guarded: u32, beta1: f32, beta2: f32, rest1: f32, rest2: f32,
  decay: f32, stepSize: f32, epsilon: f32, smallest: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> grads: array<u32>;
@group(0) @binding(2) var<storage, read> factors: array<f32>;
@group(0) @binding(3) var<storage, read_write> params: array<f32>;
@group(0) @binding(4) var<storage, read_write> mCodes: array<u32>;
@group(0) @binding(5) var<storage, read_write> vCodes: array<u32>;
@group(0) @binding(6) var<storage, read_write> mAbsmax: array<u32>;
@group(0) @binding(7) var<storage, read_write> vAbsmax: array<u32>;
@group(0) @binding(8) var<uniform> mMap: array<vec4f, 64>; // ascending
@group(0) @binding(9) var<uniform> vMap: array<vec4f, 64>;

var<workgroup> largest: array<vec2u, 256>; // bits of |m| and |v|
var<workgroup> held: f32;
var<workgroup> inverse: vec2f;
var<workgroup> codes: array<vec2u, 256>;

fn mAt(code: u32) -> f32 { return mMap[code >> 2u][code & 3u]; }
fn vAt(code: u32) -> f32 { return vMap[code >> 2u][code & 3u]; }

/// The nearest entries of the maps; a midpoint goes to the lower one.
fn nearest(x: vec2f) -> vec2u {
  var low = vec2u(0u);
  for (var step = 128u; step > 0u; step >>= 1u) {
    let at = low + vec2u(step); // is x above the midpoint below entry "at"?
    let middle = vec2f(mAt(at.x - 1u) + mAt(at.x), vAt(at.y - 1u) + vAt(at.y)) * 0.5;
    low = select(low, at, x > middle);
  }
  return low;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let block = group.y * grid.x + group.x;
  let at = block * 256u + lane;
  if (block * 256u >= p.n) { return; }
  var factor = 1.0;
  if (p.guarded == 1u) {
    if (lane == 0u) { held = factors[p.factor]; }
    factor = workgroupUniformLoad(&held); // uniform, as WGSL asks of what decides about barriers
  }
  if (factor < 0.0) { return; }
  var m = 0.0;
  var v = 0.0;
  if (at < p.n) {
    let bits = grads[p.grads + at];
    if ((bits & 0x7f800000u) != 0x7f800000u) {
      let g = bitcast<f32>(bits) * factor;
      let shift = (at & 3u) * 8u;
      let mCode = (mCodes[p.mCodes + (at >> 2u)] >> shift) & 255u;
      let vCode = (vCodes[p.vCodes + (at >> 2u)] >> shift) & 255u;
      m = p.beta1 * (mAt(mCode) * bitcast<f32>(mAbsmax[p.mAbsmax + block])) + p.rest1 * g;
      v = p.beta2 * (vAt(vCode) * bitcast<f32>(vAbsmax[p.vAbsmax + block])) + p.rest2 * g * g;
      params[p.params + at] = params[p.params + at] * p.decay - p.stepSize * m / (sqrt(v) + p.epsilon);
    }
  }
  largest[lane] = vec2u(bitcast<u32>(abs(m)), bitcast<u32>(v));
  for (var half = 128u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { largest[lane] = max(largest[lane], largest[lane + half]); }
  }
  workgroupBarrier();
  if (lane == 0u) {
    mAbsmax[p.mAbsmax + block] = largest[0].x;
    vAbsmax[p.vAbsmax + block] = largest[0].y;
    inverse = vec2f(
      bitcast<f32>(divideBits(0x3f800000u, max(largest[0].x, p.smallest))),
      bitcast<f32>(divideBits(0x3f800000u, max(largest[0].y, p.smallest))));
  }
  workgroupBarrier();
  codes[lane] = nearest(vec2f(m, v) * inverse);
  workgroupBarrier();
  if (lane < 64u && block * 256u + lane * 4u < p.n) {
    let four = lane * 4u;
    let words = codes[four] | (codes[four + 1u] << vec2u(8u)) | (codes[four + 2u] << vec2u(16u)) | (codes[four + 3u] << vec2u(24u));
    mCodes[p.mCodes + block * 64u + lane] = words.x;
    vCodes[p.vCodes + block * 64u + lane] = words.y;
  }
}
