// Causal attention for a handful of new queries a segment over a long cache (token generation): a workgroup takes one
// query of one head, 128 keys at a time, one key a lane. Same result as attention.wgsl, which would leave its tile empty.

struct Params {
  q: u32, k: u32, v: u32, table: u32, out: u32, lse: u32, sinks: u32, blocks: u32,
  heads: u32, kvHeads: u32, window: u32, scale: f32, softcap: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> table: array<i32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;
@group(0) @binding(7) var<storage, read> sinks: array<f32>;
@group(0) @binding(8) var<storage, read> blocks: array<i32>;

const WIDTH = 128u;
const COLUMNS = (D + WIDTH - 1u) / WIDTH;
const LOWEST = -3.0e38;

var<workgroup> query: array<f32, D>;
var<workgroup> weights: array<f32, WIDTH>;
var<workgroup> scratch: array<f32, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = p.table + 4u * group.z;
  let qLength = u32(table[row + 1u]);
  if (group.x >= qLength) { return; }
  let kStart = u32(table[row + 2u]);
  let position = u32(table[row + 3u]) - qLength + group.x;
  let head = group.y;
  let kvHead = head * p.kvHeads / p.heads;
  let to = (u32(table[row]) + group.x) * p.heads + head;
  for (var d = lane; d < D; d += WIDTH) { query[d] = q[p.q + to * D + d]; }
  workgroupBarrier();
  var beginKey = 0u;
  if (p.window > 0u && position + 1u > p.window) { beginKey = position + 1u - p.window; }
  var acc: array<f32, COLUMNS>;
  var largest = LOWEST;
  var total = 0.0;
  for (var key0 = beginKey; key0 <= position; key0 += WIDTH) {
    let count = min(WIDTH, position + 1u - key0);
    var score = LOWEST;
    if (lane < count) {
      let origin = p.k + (keyRow(kStart, key0 + lane) * p.kvHeads + kvHead) * D;
      var sum = 0.0;
      for (var d = 0u; d < D; d++) { sum += query[d] * k[origin + d]; }
      score = capped(sum * p.scale);
    }
    scratch[lane] = score;
    for (var half = WIDTH / 2u; half > 0u; half >>= 1u) {
      workgroupBarrier();
      if (lane < half) { scratch[lane] = max(scratch[lane], scratch[lane + half]); }
    }
    workgroupBarrier();
    let top = max(largest, scratch[0]);
    workgroupBarrier();
    let weight = select(0.0, exp(score - top), lane < count);
    weights[lane] = weight;
    scratch[lane] = weight;
    for (var half = WIDTH / 2u; half > 0u; half >>= 1u) {
      workgroupBarrier();
      if (lane < half) { scratch[lane] += scratch[lane + half]; }
    }
    workgroupBarrier();
    let shrink = exp(largest - top);
    total = total * shrink + scratch[0];
    largest = top;
    for (var c = 0u; c < COLUMNS; c++) {
      let d = c * WIDTH + lane;
      var sum = acc[c] * shrink;
      if (d < D) {
        for (var j = 0u; j < count; j++) { sum += weights[j] * v[p.v + (keyRow(kStart, key0 + j) * p.kvHeads + kvHead) * D + d]; }
      }
      acc[c] = sum;
    }
    workgroupBarrier();
  }
  var shrink = 1.0;
  if (SINKS == 1u) {
    let sink = sinks[p.sinks + head];
    let best = max(largest, sink);
    shrink = exp(largest - best);
    total = total * shrink + exp(sink - best);
    largest = best;
  }
  for (var c = 0u; c < COLUMNS; c++) {
    let d = c * WIDTH + lane;
    if (d < D) { out[p.out + to * D + d] = acc[c] * shrink / total; }
  }
  if (lane == 0u) { lse[p.lse + to] = largest + log(total); }
}
