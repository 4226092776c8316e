// Causal attention over segments, forward: a workgroup takes BQ queries of one head and walks the keys they see in tiles
// of BK, keeping maximum, sum and output of each query as it goes (FlashAttention-2, Dao 2023). Scores never reach
// device memory. D is the head width; q and k pass through workgroup memory 32 columns at a time, v 64. All tiles are
// vectors of four. p.depth is 8: bounds that only the host knows keep compilers from unrolling what takes them minutes.

struct Params {
  q: u32, k: u32, v: u32, table: u32, out: u32, lse: u32, sinks: u32, blocks: u32,
  heads: u32, kvHeads: u32, window: u32, scale: f32, softcap: f32, depth: u32,
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

// 16 x 16 lanes: lane (ly, lx) owns queries ly + 16 i, keys lx + 16 j and output columns 4 lx .. 4 lx + 3 of each chunk.
const ROWS = BQ / 16u;
const KEYS = BK / 16u;
const CHUNKS = (D + 31u) / 32u;
const VALUE_CHUNKS = (D + 63u) / 64u;
const PER_ROW = 256u / BQ; // lanes that share a query's maximum and sum
const NARROW = 9u; // vectors a row of 32 columns takes, padded
const WIDE = 17u; // and of 64
const QUADS = BK / 4u;
const SCORES = QUADS + 1u;
const LOWEST = -3.0e38;

var<workgroup> tileQ: array<vec4f, BQ * NARROW>;
var<workgroup> tileK: array<vec4f, BK * WIDE>; // keys, then values
var<workgroup> weights: array<vec4f, BQ * SCORES>; // scores, then exp(score - maximum)
var<workgroup> partial: array<f32, 256>;
var<workgroup> rowMax: array<f32, BQ>;
var<workgroup> rowSum: array<f32, BQ>;
var<workgroup> rowShrink: array<f32, BQ>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = p.table + 4u * group.z;
  let qStart = u32(table[row]);
  let qLength = u32(table[row + 1u]);
  let kStart = u32(table[row + 2u]);
  let kLength = u32(table[row + 3u]);
  let firstQuery = group.x * BQ;
  if (firstQuery >= qLength) { return; }
  let head = group.y;
  let kvHead = head * p.kvHeads / p.heads;
  let ly = lane / 16u;
  let lx = lane % 16u;
  let before = kLength - qLength; // keys older than the first query
  let endKey = before + min(qLength, firstQuery + BQ);
  var beginKey = 0u;
  if (p.window > 0u && before + firstQuery + 1u > p.window) { beginKey = before + firstQuery + 1u - p.window; }

  var acc: array<vec4f, ROWS * VALUE_CHUNKS>;
  for (var i = lane; i < BQ; i += 256u) {
    rowMax[i] = LOWEST;
    rowSum[i] = 0.0;
  }
  for (var key0 = beginKey; key0 < endKey; key0 += BK) {
    var scores: array<f32, ROWS * KEYS>;
    for (var i = 0u; i < ROWS * KEYS; i++) { scores[i] = 0.0; } // a declaration in a loop is not always cleared again
    for (var chunk = 0u; chunk < CHUNKS; chunk++) {
      workgroupBarrier();
      for (var at = lane; at < BQ * 8u; at += 256u) {
        let i = at / 8u;
        let d = chunk * 32u + (at % 8u) * 4u;
        var value = vec4f(0.0);
        if (firstQuery + i < qLength) { value = four(((qStart + firstQuery + i) * p.heads + head) * D, d, 0u); }
        tileQ[i * NARROW + at % 8u] = value;
      }
      for (var at = lane; at < BK * 8u; at += 256u) {
        let j = at / 8u;
        let d = chunk * 32u + (at % 8u) * 4u;
        var value = vec4f(0.0);
        if (key0 + j < endKey) { value = four((keyRow(kStart, key0 + j) * p.kvHeads + kvHead) * D, d, 1u); }
        tileK[j * NARROW + at % 8u] = value;
      }
      workgroupBarrier();
      for (var d = 0u; d < p.depth; d++) {
        var keys: array<vec4f, KEYS>;
        for (var j = 0u; j < KEYS; j++) { keys[j] = tileK[(lx + 16u * j) * NARROW + d]; }
        for (var i = 0u; i < ROWS; i++) {
          let query = tileQ[(ly + 16u * i) * NARROW + d];
          for (var j = 0u; j < KEYS; j++) { scores[i * KEYS + j] += dot(query, keys[j]); }
        }
      }
    }
    for (var i = 0u; i < ROWS; i++) {
      let position = before + firstQuery + ly + 16u * i;
      for (var j = 0u; j < KEYS; j++) {
        let at = lx + 16u * j;
        let key = key0 + at;
        let visible = key <= position && key < endKey && (p.window == 0u || key + p.window > position);
        weights[(ly + 16u * i) * SCORES + at / 4u][at % 4u] = select(LOWEST, capped(scores[i * KEYS + j] * p.scale), visible);
      }
    }
    workgroupBarrier();
    // PER_ROW lanes a query: its new maximum, then its weights and their sum.
    let mine = lane / PER_ROW;
    let share = lane % PER_ROW;
    var tops = vec4f(LOWEST);
    for (var j = share; j < QUADS; j += PER_ROW) { tops = max(tops, weights[mine * SCORES + j]); }
    partial[lane] = max(max(tops.x, tops.y), max(tops.z, tops.w));
    workgroupBarrier();
    let old = rowMax[mine];
    var top = old;
    for (var j = 0u; j < PER_ROW; j++) { top = max(top, partial[mine * PER_ROW + j]); }
    var sums = vec4f(0.0);
    for (var j = share; j < QUADS; j += PER_ROW) {
      let score = weights[mine * SCORES + j];
      let weight = select(vec4f(0.0), exp(score - vec4f(top)), score > vec4f(LOWEST));
      weights[mine * SCORES + j] = weight;
      sums += weight;
    }
    workgroupBarrier();
    partial[lane] = sums.x + sums.y + sums.z + sums.w;
    workgroupBarrier();
    if (share == 0u) {
      var total = 0.0;
      for (var j = 0u; j < PER_ROW; j++) { total += partial[mine * PER_ROW + j]; }
      let shrink = exp(old - top);
      rowShrink[mine] = shrink;
      rowSum[mine] = rowSum[mine] * shrink + total;
      rowMax[mine] = top;
    }
    let quads = (min(BK, endKey - key0) + 3u) / 4u;
    for (var chunk = 0u; chunk < VALUE_CHUNKS; chunk++) {
      workgroupBarrier();
      for (var at = lane; at < BK * 16u; at += 256u) {
        let j = at / 16u;
        let d = chunk * 64u + (at % 16u) * 4u;
        var value = vec4f(0.0);
        if (key0 + j < endKey) { value = four((keyRow(kStart, key0 + j) * p.kvHeads + kvHead) * D, d, 2u); }
        tileK[j * WIDE + at % 16u] = value;
      }
      workgroupBarrier();
      for (var i = 0u; i < ROWS; i++) { acc[i * VALUE_CHUNKS + chunk] *= rowShrink[ly + 16u * i]; }
      for (var j = 0u; j < quads; j++) {
        let v0 = tileK[(4u * j) * WIDE + lx];
        let v1 = tileK[(4u * j + 1u) * WIDE + lx];
        let v2 = tileK[(4u * j + 2u) * WIDE + lx];
        let v3 = tileK[(4u * j + 3u) * WIDE + lx];
        for (var i = 0u; i < ROWS; i++) {
          let w = weights[(ly + 16u * i) * SCORES + j];
          acc[i * VALUE_CHUNKS + chunk] += w.x * v0 + w.y * v1 + w.z * v2 + w.w * v3;
        }
      }
    }
  }
  workgroupBarrier();
  for (var i = 0u; i < ROWS; i++) {
    let query = firstQuery + ly + 16u * i;
    if (query >= qLength) { continue; }
    let to = (qStart + query) * p.heads + head;
    var top = rowMax[ly + 16u * i];
    var total = rowSum[ly + 16u * i];
    var shrink = 1.0;
    if (SINKS == 1u) {
      let sink = sinks[p.sinks + head];
      let best = max(top, sink);
      shrink = exp(top - best);
      total = total * shrink + exp(sink - best);
      top = best;
    }
    for (var chunk = 0u; chunk < VALUE_CHUNKS; chunk++) {
      let value = acc[i * VALUE_CHUNKS + chunk] * shrink / total;
      for (var c = 0u; c < 4u; c++) {
        let d = chunk * 64u + lx * 4u + c;
        if (d < D) { out[p.out + to * D + d] = value[c]; }
      }
    }
    if (lx == 0u) { lse[p.lse + to] = top + log(total); }
  }
}

/// Columns d .. d + 3 of the row that starts at "row" of q, k or v (0, 1, 2); zero beyond D.
fn four(row: u32, d: u32, which: u32) -> vec4f {
  var value = vec4f(0.0);
  for (var c = 0u; c < 4u; c++) {
    if (d + c < D) {
      let at = row + d + c;
      if (which == 0u) { value[c] = q[p.q + at]; } else if (which == 1u) { value[c] = k[p.k + at]; } else { value[c] = v[p.v + at]; }
    }
  }
  return value;
}
