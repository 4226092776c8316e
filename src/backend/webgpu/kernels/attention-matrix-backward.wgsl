// dQ, dK and dV on subgroup matrices in one launch: the first "tiles" workgroups along x make dQ, a subgroup MM queries of
// one head: dS = scale P (dOut v - delta) in f16, dQ = dS K. The others make dK and dV, a subgroup MM keys of one key/value
// head: over every head of its group and every tile of queries, with keys as rows, dV = P^T dOut, dK = dS^T Q. dOut is scaled
// by halfFactor of its largest magnitude, which results are divided by. "known" is what attention-matrix-known.wgsl made.

struct Params {
  q: u32, k: u32, v: u32, dOut: u32, known: u32, dq: u32, dk: u32, dv: u32,
  heads: u32, kvHeads: u32, window: u32, scale: f32, tiles: u32, statistics: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> k: array<vec4f>;
@group(0) @binding(3) var<storage, read> v: array<vec4f>;
@group(0) @binding(4) var<storage, read> dOut: array<vec4f>;
@group(0) @binding(5) var<storage, read> known: array<vec2u>;
@group(0) @binding(6) var<storage, read_write> dq: array<f32>;
@group(0) @binding(7) var<storage, read_write> dk: array<f32>;
@group(0) @binding(8) var<storage, read_write> dv: array<f32>;

var<workgroup> slopes: array<f32, STRIPS * STRIP>;
var<workgroup> dScores: array<f16, STRIPS * STRIP>;

/// The same for a whole workgroup.
struct Place {
  qStart: u32,
  kStart: u32,
  length: u32,
  head: u32, // of queries or of keys, by what is made
  first: u32, // query or key of the workgroup
}

fn q8(at: u32) -> vec4u { return eightOf(q[p.q + at], q[p.q + at + 1u], 1.0); }
fn k8(at: u32) -> vec4u { return eightOf(k[p.k + at], k[p.k + at + 1u], 1.0); }
fn v8(at: u32) -> vec4u { return eightOf(v[p.v + at], v[p.v + at + 1u], 1.0); }
fn dOut8(at: u32, factor: f32) -> vec4u { return eightOf(dOut[p.dOut + at], dOut[p.dOut + at + 1u], factor); }

/// Where eight columns of a row of a head start, in vectors of four; "eight" counts such groups.
fn fours(row: u32, heads: u32, head: u32, eight: u32) -> u32 { return (row * heads + head) * (D / 4u) + eight * 2u; }

/// (lse, delta) of a query.
fn statisticsOf(row: u32, head: u32) -> vec2f { return bitcast<vec2f>(known[p.statistics + row * p.heads + head]); }

fn makeQueries(at: Place, factor: f32, lane: u32, subgroup: u32, within: u32) {
  let head = at.head;
  let kvHead = head * p.kvHeads / p.heads;
  let endKey = min(at.length, at.first + ROWS);
  var beginKey = 0u;
  if (p.window > 0u && at.first + 1u > p.window) { beginKey = at.first + 1u - p.window; }
  let strip = subgroup * STRIP;
  let mine = within / PER_ROW;
  let query = at.first + subgroup * MM + mine;
  var own = vec2f(0.0);
  if (query < at.length) { own = statisticsOf(at.qStart + query, head); }

  var queries: array<Left, STEPS>;
  var upstream: array<Left, STEPS>;
  for (var s = 0u; s < STEPS; s++) {
    for (var i = lane; i < ROWS * SLICE_EIGHTS; i += THREADS) {
      let r = i / SLICE_EIGHTS;
      let to = r * SLICE_ROW + i % SLICE_EIGHTS;
      let start = fours(at.qStart + at.first + r, p.heads, head, s * SLICE_EIGHTS + i % SLICE_EIGHTS);
      var one = vec4u(0u);
      var other = vec4u(0u);
      if (at.first + r < at.length) {
        one = q8(start);
        other = dOut8(start, factor);
      }
      tiles[to] = one;
      tiles[ROWS * SLICE_ROW + to] = other;
    }
    workgroupBarrier();
    queries[s] = subgroupMatrixLoad<Left, row_major>(&tiles, subgroup * MM * SLICE_ROW, SLICE_ROW);
    upstream[s] = subgroupMatrixLoad<Left, row_major>(&tiles, (ROWS + subgroup * MM) * SLICE_ROW, SLICE_ROW);
    workgroupBarrier();
  }
  var sums: array<Sum, COLUMNS>;
  for (var c = 0u; c < COLUMNS; c++) { sums[c] = Sum(0.0); }
  for (var key0 = beginKey; key0 < endKey; key0 += WIDTH) {
    for (var i = lane; i < WIDTH * EIGHTS; i += THREADS) {
      let to = (i / EIGHTS) * ROW + i % EIGHTS;
      let start = fours(at.kStart + key0 + i / EIGHTS, p.kvHeads, kvHead, i % EIGHTS);
      var one = vec4u(0u);
      var other = vec4u(0u);
      if (key0 + i / EIGHTS < at.length) {
        one = k8(start);
        other = v8(start);
      }
      tiles[to] = one;
      tiles[SECOND + to] = other;
    }
    workgroupBarrier();
    for (var j = 0u; j < ACROSS; j++) {
      var score = Sum(0.0);
      var slope = Sum(0.0);
      for (var s = 0u; s < STEPS; s++) {
        let start = j * MN * ROW + s * SLICE_EIGHTS;
        score = subgroupMatrixMultiplyAccumulate(queries[s], subgroupMatrixLoad<Right, col_major>(&tiles, start, ROW), score);
        slope = subgroupMatrixMultiplyAccumulate(upstream[s], subgroupMatrixLoad<Right, col_major>(&tiles, SECOND + start, ROW), slope);
      }
      subgroupMatrixStore<row_major>(&scores, strip + j * MN, score, WIDTH);
      subgroupMatrixStore<row_major>(&slopes, strip + j * MN, slope, WIDTH);
    }
    workgroupBarrier();
    for (var c = within % PER_ROW; c < WIDTH; c += PER_ROW) {
      let i = strip + mine * WIDTH + c;
      var dScore = 0.0;
      if (query < at.length && visible(query, key0 + c)) {
        let weight = exp(min(scores[i] * p.scale - own.x, 0.0));
        dScore = clamp(p.scale * weight * (slopes[i] - own.y * factor), -65504.0, 65504.0);
      }
      dScores[i] = f16(dScore);
    }
    workgroupBarrier();
    for (var s = 0u; s < DEEP; s++) {
      let left = subgroupMatrixLoad<Left, row_major>(&dScores, strip + s * MK, WIDTH);
      for (var c = 0u; c < COLUMNS; c++) {
        let start = s * MK * ROW + c * (MN / 8u);
        sums[c] = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&tiles, start, ROW), sums[c]);
      }
    }
    workgroupBarrier();
  }
  for (var c = 0u; c < COLUMNS; c++) {
    workgroupBarrier();
    subgroupMatrixStore<row_major>(&scores, strip, sums[c], WIDTH);
    workgroupBarrier();
    if (query < at.length) {
      for (var d = within % PER_ROW; d < MN; d += PER_ROW) {
        dq[p.dq + ((at.qStart + query) * p.heads + head) * D + c * MN + d] = scores[strip + mine * WIDTH + d] / factor;
      }
    }
  }
}

fn makeKeys(at: Place, factor: f32, lane: u32, subgroup: u32, within: u32) {
  let kvHead = at.head;
  let perGroup = p.heads / p.kvHeads;
  let strip = subgroup * STRIP;
  let mine = within / PER_ROW;
  let key = at.first + subgroup * MM + mine;
  var endQuery = at.length;
  if (p.window > 0u) { endQuery = min(at.length, at.first + ROWS - 1u + p.window); }

  var keys: array<Left, STEPS>;
  var values: array<Left, STEPS>;
  for (var s = 0u; s < STEPS; s++) {
    for (var i = lane; i < ROWS * SLICE_EIGHTS; i += THREADS) {
      let r = i / SLICE_EIGHTS;
      let to = r * SLICE_ROW + i % SLICE_EIGHTS;
      let start = fours(at.kStart + at.first + r, p.kvHeads, kvHead, s * SLICE_EIGHTS + i % SLICE_EIGHTS);
      var one = vec4u(0u);
      var other = vec4u(0u);
      if (at.first + r < at.length) {
        one = k8(start);
        other = v8(start);
      }
      tiles[to] = one;
      tiles[ROWS * SLICE_ROW + to] = other;
    }
    workgroupBarrier();
    keys[s] = subgroupMatrixLoad<Left, row_major>(&tiles, subgroup * MM * SLICE_ROW, SLICE_ROW);
    values[s] = subgroupMatrixLoad<Left, row_major>(&tiles, (ROWS + subgroup * MM) * SLICE_ROW, SLICE_ROW);
    workgroupBarrier();
  }
  var sumsK: array<Sum, COLUMNS>;
  var sumsV: array<Sum, COLUMNS>;
  for (var c = 0u; c < COLUMNS; c++) {
    sumsK[c] = Sum(0.0);
    sumsV[c] = Sum(0.0);
  }
  for (var head = kvHead * perGroup; head < (kvHead + 1u) * perGroup; head++) {
    for (var query0 = at.first; query0 < endQuery; query0 += WIDTH) {
      for (var i = lane; i < WIDTH * EIGHTS; i += THREADS) {
        let to = (i / EIGHTS) * ROW + i % EIGHTS;
        let start = fours(at.qStart + query0 + i / EIGHTS, p.heads, head, i % EIGHTS);
        var one = vec4u(0u);
        var other = vec4u(0u);
        if (query0 + i / EIGHTS < at.length) {
          one = q8(start);
          other = dOut8(start, factor);
        }
        tiles[to] = one;
        tiles[SECOND + to] = other;
      }
      workgroupBarrier();
      for (var j = 0u; j < ACROSS; j++) {
        var score = Sum(0.0);
        var slope = Sum(0.0);
        for (var s = 0u; s < STEPS; s++) {
          let start = j * MN * ROW + s * SLICE_EIGHTS;
          score = subgroupMatrixMultiplyAccumulate(keys[s], subgroupMatrixLoad<Right, col_major>(&tiles, start, ROW), score);
          slope = subgroupMatrixMultiplyAccumulate(values[s], subgroupMatrixLoad<Right, col_major>(&tiles, SECOND + start, ROW), slope);
        }
        subgroupMatrixStore<row_major>(&scores, strip + j * MN, score, WIDTH);
        subgroupMatrixStore<row_major>(&slopes, strip + j * MN, slope, WIDTH);
      }
      workgroupBarrier();
      for (var c = within % PER_ROW; c < WIDTH; c += PER_ROW) {
        let i = strip + mine * WIDTH + c;
        let query = query0 + c;
        var weight = 0.0;
        var dScore = 0.0;
        if (query < at.length && key < at.length && visible(query, key)) {
          let theirs = statisticsOf(at.qStart + query, head);
          weight = exp(min(scores[i] * p.scale - theirs.x, 0.0));
          dScore = clamp(p.scale * weight * (slopes[i] - theirs.y * factor), -65504.0, 65504.0);
        }
        weights[i] = f16(weight);
        dScores[i] = f16(dScore);
      }
      workgroupBarrier();
      for (var s = 0u; s < DEEP; s++) {
        let left = subgroupMatrixLoad<Left, row_major>(&weights, strip + s * MK, WIDTH);
        let leftS = subgroupMatrixLoad<Left, row_major>(&dScores, strip + s * MK, WIDTH);
        for (var c = 0u; c < COLUMNS; c++) {
          let start = s * MK * ROW + c * (MN / 8u);
          sumsV[c] = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&tiles, SECOND + start, ROW), sumsV[c]);
          sumsK[c] = subgroupMatrixMultiplyAccumulate(leftS, subgroupMatrixLoad<Right, row_major>(&tiles, start, ROW), sumsK[c]);
        }
      }
      workgroupBarrier();
    }
  }
  for (var c = 0u; c < COLUMNS; c++) {
    workgroupBarrier();
    subgroupMatrixStore<row_major>(&scores, strip, sumsK[c], WIDTH);
    subgroupMatrixStore<row_major>(&slopes, strip, sumsV[c], WIDTH);
    workgroupBarrier();
    if (key < at.length) {
      for (var d = within % PER_ROW; d < MN; d += PER_ROW) {
        let to = ((at.kStart + key) * p.kvHeads + kvHead) * D + c * MN + d;
        dk[p.dk + to] = scores[strip + mine * WIDTH + d] / factor;
        dv[p.dv + to] = slopes[strip + mine * WIDTH + d] / factor;
      }
    }
  }
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
) {
  let queries = bitcast<vec2i>(known[p.known + 1u + 2u * group.z]);
  let keys = bitcast<vec2i>(known[p.known + 2u + 2u * group.z]);
  let length = u32(queries.y);
  let ofKeys = group.x >= p.tiles;
  let first = select(group.x, group.x - p.tiles, ofKeys) * ROWS;
  if (first >= length || (ofKeys && group.y >= p.kvHeads)) { return; }
  let factor = halfFactor(known[p.known].x);
  let at = Place(u32(queries.x), u32(keys.x), length, group.y, first);
  if (ofKeys) {
    makeKeys(at, factor, lane, subgroup, within);
  } else {
    makeQueries(at, factor, lane, subgroup, within);
  }
}
