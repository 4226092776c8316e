// The gradient of S from a segment's end to its start, a line of lanes a column: x = k.dS is the gradient of what a token
// learns, before beta, and beta x that of its value. errors has the errors [T][vHeads][VD]; x goes behind them. A
// column's keys are dealt out to 4 lanes.

struct Params { unit: u32, dOut: u32, g: u32, beta: u32, segments: u32, errors: u32, dqkv: u32, channels: u32, kHeads: u32, vHeads: u32, tokens: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> unit: array<f32>;
@group(0) @binding(2) var<storage, read> dOut: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
@group(0) @binding(5) var<storage, read> segments: array<i32>;
@group(0) @binding(6) var<storage, read_write> errors: array<f32>;
@group(0) @binding(7) var<storage, read_write> dqkv: array<f32>;

const OWN = (KD + 3u) / 4u;
var<workgroup> key: array<f32, KD>;
var<workgroup> query: array<f32, KD>;
var<workgroup> sums: array<f32, 128>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.y;
  let keyHead = head * p.kHeads / p.vHeads;
  let column = group.x * 32u + lane / 4u;
  let share = lane % 4u;
  let present = column < VD;
  let start = u32(segments[p.segments + 4u * group.z]);
  let length = u32(segments[p.segments + 4u * group.z + 1u]);
  var s: array<f32, OWN>;
  for (var i = 0u; i < OWN; i++) { s[i] = 0.0; }
  for (var back = 1u; back <= length; back++) {
    let t = start + length - back;
    workgroupBarrier();
    let rows = p.unit + (t * 2u * p.kHeads + keyHead) * KD;
    for (var i = lane; i < KD; i += 128u) {
      query[i] = unit[rows + i];
      key[i] = unit[rows + p.kHeads * KD + i];
    }
    workgroupBarrier();
    let gate = t * p.vHeads + head;
    var upstream = 0.0;
    if (present) { upstream = dOut[p.dOut + gate * VD + column]; }
    var sum = 0.0;
    for (var i = 0u; i < OWN; i++) {
      let k = 4u * i + share;
      if (k >= KD) { break; }
      s[i] += query[k] * upstream;
      sum += key[k] * s[i];
    }
    sums[lane] = sum;
    workgroupBarrier();
    let line = lane & ~3u;
    let x = (sums[line] + sums[line + 1u]) + (sums[line + 2u] + sums[line + 3u]);
    let f = beta[p.beta + gate] * x;
    let decay = exp(g[p.g + gate]);
    for (var i = 0u; i < OWN; i++) {
      let k = 4u * i + share;
      if (k < KD) { s[i] = (s[i] - key[k] * f) * decay; }
    }
    if (present && share == 0u) {
      errors[p.errors + (p.tokens * p.vHeads + gate) * VD + column] = x;
      dqkv[p.dqkv + t * p.channels + 2u * p.kHeads * KD + head * VD + column] = f;
    }
  }
}
