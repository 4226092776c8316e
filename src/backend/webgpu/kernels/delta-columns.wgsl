// The delta rule along its sequences, a line of lanes a column of S: 32 columns of one head in a workgroup, each column's
// keys dealt out to 4 lanes. OUTPUT 0: y [T][vHeads][VD] is what queries read; 1: the errors v - S^T k, for the backward
// pass. STATE: S is read from and left in state, and segments of one of its rows are walked by their first one's group.

struct Params { unit: u32, qkv: u32, g: u32, beta: u32, segments: u32, state: u32, y: u32, channels: u32, kHeads: u32, vHeads: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> unit: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
@group(0) @binding(5) var<storage, read> segments: array<i32>;
@group(0) @binding(6) var<storage, read_write> state: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

const OWN = (KD + 3u) / 4u;
var<workgroup> key: array<f32, KD>;
var<workgroup> query: array<f32, KD>;
var<workgroup> sums: array<vec2f, 128>;

fn part(n: u32, i: u32) -> u32 { return u32(segments[p.segments + 4u * n + i]); }

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.y;
  let keyHead = head * p.kHeads / p.vHeads;
  let column = group.x * 32u + lane / 4u;
  let share = lane % 4u;
  let present = column < VD;
  var n = group.z;
  let row = part(n, 2u);
  if (STATE == 1u && n > 0u && part(n - 1u, 2u) == row) { return; }
  let own = p.state + (row * p.vHeads + head) * KD * VD + column;
  var s: array<f32, OWN>;
  for (var i = 0u; i < OWN; i++) { s[i] = 0.0; }
  if (STATE == 1u && present && part(n, 3u) > part(n, 1u)) {
    for (var i = 0u; i < OWN; i++) {
      let k = 4u * i + share;
      if (k < KD) { s[i] = state[own + k * VD]; }
    }
  }
  loop {
    let start = part(n, 0u);
    let end = start + part(n, 1u);
    for (var t = start; t < end; t++) {
      workgroupBarrier();
      let rows = p.unit + (t * 2u * p.kHeads + keyHead) * KD;
      for (var i = lane; i < KD; i += 128u) {
        query[i] = unit[rows + i];
        key[i] = unit[rows + p.kHeads * KD + i];
      }
      workgroupBarrier();
      let gate = t * p.vHeads + head;
      let decay = exp(g[p.g + gate]);
      // q.(S' + k u) = q.S' + q.k u, so that one exchange serves both.
      var seen = vec2f(0.0);
      var alike = 0.0;
      for (var i = 0u; i < OWN; i++) {
        let k = 4u * i + share;
        if (k >= KD) { break; }
        s[i] *= decay;
        seen += s[i] * vec2f(key[k], query[k]);
        alike += key[k] * query[k];
      }
      sums[lane] = seen;
      workgroupBarrier();
      let line = lane & ~3u;
      seen = (sums[line] + sums[line + 1u]) + (sums[line + 2u] + sums[line + 3u]);
      var error = 0.0;
      if (present) { error = qkv[p.qkv + t * p.channels + 2u * p.kHeads * KD + head * VD + column] - seen.x; }
      let learnt = beta[p.beta + gate] * error;
      for (var i = 0u; i < OWN; i++) {
        let k = 4u * i + share;
        if (k < KD) { s[i] += key[k] * learnt; }
      }
      if (OUTPUT == 1u) {
        if (present && share == 0u) { y[p.y + gate * VD + column] = error; }
        continue;
      }
      workgroupBarrier();
      sums[lane] = vec2f(alike, 0.0);
      workgroupBarrier();
      if (present && share == 0u) {
        let all = (sums[line].x + sums[line + 1u].x) + (sums[line + 2u].x + sums[line + 3u].x);
        y[p.y + gate * VD + column] = seen.y + all * learnt;
      }
    }
    n += 1u;
    if (STATE == 0u || n >= p.count || part(n, 2u) != row) { break; }
  }
  if (STATE == 1u && present) {
    for (var i = 0u; i < OWN; i++) {
      let k = 4u * i + share;
      if (k < KD) { state[own + k * VD] = s[i]; }
    }
  }
}
