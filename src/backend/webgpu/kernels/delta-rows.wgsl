// The gradients of unit queries and keys, a line of lanes a row of S, each row's values dealt out to 4 lanes. PHASE 0, from
// start to end: S itself, out of what each token learnt, gives the gradient of queries and of keys as they are read. PHASE
// 1, from end to start: S's gradient gives that of keys as they are written. errors has errors and x (delta-columns-
// backward.wgsl); rows [3][T][vHeads][KD] takes queries, keys read, keys written.

struct Params { unit: u32, dOut: u32, g: u32, beta: u32, segments: u32, errors: u32, rows: u32, kHeads: u32, vHeads: u32, tokens: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> unit: array<f32>;
@group(0) @binding(2) var<storage, read> dOut: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
@group(0) @binding(5) var<storage, read> segments: array<i32>;
@group(0) @binding(6) var<storage, read> errors: array<f32>;
@group(0) @binding(7) var<storage, read_write> rows: array<f32>;

const OWN = (VD + 3u) / 4u;
/** Of a token: what it learns, the gradient of its value, and of its output. */
var<workgroup> learnt: array<f32, VD>;
var<workgroup> grad: array<f32, VD>;
var<workgroup> upstream: array<f32, VD>;
var<workgroup> sums: array<vec2f, 128>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.y;
  let keyHead = head * p.kHeads / p.vHeads;
  let row = group.x * 32u + lane / 4u;
  let share = lane % 4u;
  let present = row < KD;
  let start = u32(segments[p.segments + 4u * group.z]);
  let length = u32(segments[p.segments + 4u * group.z + 1u]);
  let size = p.tokens * p.vHeads * KD;
  var s: array<f32, OWN>;
  for (var i = 0u; i < OWN; i++) { s[i] = 0.0; }
  for (var step = 0u; step < length; step++) {
    let t = select(start + step, start + length - 1u - step, PHASE == 1u);
    let gate = t * p.vHeads + head;
    workgroupBarrier();
    let rate = beta[p.beta + gate];
    for (var i = lane; i < VD; i += 128u) {
      learnt[i] = rate * errors[p.errors + gate * VD + i];
      grad[i] = rate * errors[p.errors + (p.tokens * p.vHeads + gate) * VD + i];
      upstream[i] = dOut[p.dOut + gate * VD + i];
    }
    workgroupBarrier();
    let decay = exp(g[p.g + gate]);
    let at = p.unit + (t * 2u * p.kHeads + keyHead) * KD + row;
    var query = 0.0;
    var key = 0.0;
    if (present) {
      query = unit[at];
      key = unit[at + p.kHeads * KD];
    }
    var sum = vec2f(0.0);
    for (var i = 0u; i < OWN; i++) {
      let v = 4u * i + share;
      if (v >= VD) { break; }
      if (PHASE == 0u) {
        let held = s[i] * decay;
        s[i] = held + key * learnt[v];
        sum += vec2f(s[i] * upstream[v], -held * grad[v]);
      } else {
        let whole = s[i] + query * upstream[v];
        sum.x += whole * learnt[v];
        s[i] = (whole - key * grad[v]) * decay;
      }
    }
    sums[lane] = sum;
    workgroupBarrier();
    if (present && share == 0u) {
      let all = (sums[lane] + sums[lane + 1u]) + (sums[lane + 2u] + sums[lane + 3u]);
      let to = p.rows + gate * KD + row;
      if (PHASE == 0u) {
        rows[to] = all.x;
        rows[to + size] = all.y;
      } else {
        rows[to + 2u * size] = all.x;
      }
    }
  }
}
