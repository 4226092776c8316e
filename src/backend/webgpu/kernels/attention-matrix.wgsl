// attention.wgsl on subgroup matrices: a subgroup takes MM queries of one head and sweeps the keys twice, first for each
// query's log-sum-exp, then for its output, so that sums in matrices need no rescaling between. f16 inputs, f32 sums.

struct Params {
  q: u32, k: u32, v: u32, table: u32, out: u32, lse: u32, blocks: u32,
  heads: u32, kvHeads: u32, window: u32, scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> k: array<vec4f>;
@group(0) @binding(3) var<storage, read> v: array<vec4f>;
@group(0) @binding(4) var<storage, read> table: array<i32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;
@group(0) @binding(7) var<storage, read> blocks: array<i32>;

var<workgroup> shares: array<vec2f, THREADS>;

const LOWEST = -3.0e38;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
) {
  let row = p.table + 4u * group.z;
  let qStart = u32(table[row]);
  let qLength = u32(table[row + 1u]);
  let kStart = u32(table[row + 2u]);
  let kLength = u32(table[row + 3u]);
  let firstQuery = group.x * ROWS;
  if (firstQuery >= qLength) { return; }
  let head = group.y;
  let kvHead = head * p.kvHeads / p.heads;
  let before = kLength - qLength;
  let endKey = before + min(qLength, firstQuery + ROWS);
  var beginKey = 0u;
  if (p.window > 0u && before + firstQuery + 1u > p.window) { beginKey = before + firstQuery + 1u - p.window; }
  let strip = subgroup * STRIP;
  let mine = within / PER_ROW; // this lane's row of the strip
  let query = firstQuery + subgroup * MM + mine;
  let position = before + query;

  var queries: array<Left, STEPS>;
  for (var s = 0u; s < STEPS; s++) {
    for (var i = lane; i < ROWS * SLICE_EIGHTS; i += THREADS) {
      let r = i / SLICE_EIGHTS;
      var eight = vec4u(0u);
      if (firstQuery + r < qLength) {
        let at = p.q + ((qStart + firstQuery + r) * p.heads + head) * (D / 4u) + (s * SLICE_EIGHTS + i % SLICE_EIGHTS) * 2u;
        eight = eightOf(q[at], q[at + 1u], 1.0);
      }
      tiles[r * SLICE_ROW + i % SLICE_EIGHTS] = eight;
    }
    workgroupBarrier();
    queries[s] = subgroupMatrixLoad<Left, row_major>(&tiles, subgroup * MM * SLICE_ROW, SLICE_ROW);
    workgroupBarrier();
  }
  var outs: array<Sum, COLUMNS>;
  for (var c = 0u; c < COLUMNS; c++) { outs[c] = Sum(0.0); }
  var largest = LOWEST;
  var total = 0.0;
  var logSum = 0.0;
  for (var sweep = 0u; sweep < 2u; sweep++) {
    for (var key0 = beginKey; key0 < endKey; key0 += WIDTH) {
      for (var i = lane; i < WIDTH * EIGHTS; i += THREADS) {
        let key = key0 + i / EIGHTS;
        let to = (i / EIGHTS) * ROW + i % EIGHTS;
        let there = key < kLength;
        let at = (keyRow(kStart, select(0u, key, there)) * p.kvHeads + kvHead) * (D / 4u) + (i % EIGHTS) * 2u;
        var eight = vec4u(0u);
        if (there) { eight = eightOf(k[p.k + at], k[p.k + at + 1u], 1.0); }
        tiles[to] = eight;
        if (sweep == 1u) {
          eight = vec4u(0u);
          if (there) { eight = eightOf(v[p.v + at], v[p.v + at + 1u], 1.0); }
          tiles[SECOND + to] = eight;
        }
      }
      workgroupBarrier();
      for (var j = 0u; j < ACROSS; j++) {
        var sum = Sum(0.0);
        for (var s = 0u; s < STEPS; s++) {
          sum = subgroupMatrixMultiplyAccumulate(queries[s], subgroupMatrixLoad<Right, col_major>(&tiles, j * MN * ROW + s * SLICE_EIGHTS, ROW), sum);
        }
        subgroupMatrixStore<row_major>(&scores, strip + j * MN, sum, WIDTH);
      }
      workgroupBarrier();
      for (var c = within % PER_ROW; c < WIDTH; c += PER_ROW) {
        let at = subgroup * STRIP + mine * WIDTH + c;
        let score = scores[at] * p.scale;
        let sees = query < qLength && visible(position, key0 + c);
        if (sweep == 1u) {
          weights[at] = f16(select(0.0, exp(min(score - logSum, 0.0)), sees));
        } else if (sees) {
          let top = max(largest, score);
          total = total * exp(largest - top) + exp(score - top);
          largest = top;
        }
      }
      workgroupBarrier();
      if (sweep == 1u) {
        for (var s = 0u; s < DEEP; s++) {
          let left = subgroupMatrixLoad<Left, row_major>(&weights, strip + s * MK, WIDTH);
          for (var c = 0u; c < COLUMNS; c++) {
            let at = SECOND + s * MK * ROW + c * (MN / 8u);
            outs[c] = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&tiles, at, ROW), outs[c]);
          }
        }
        workgroupBarrier(); // the next tile takes this one's memory
      }
    }
    if (sweep == 0u) {
      shares[lane] = vec2f(largest, total);
      workgroupBarrier();
      var top = LOWEST;
      let first = lane - within % PER_ROW;
      for (var i = 0u; i < PER_ROW; i++) { top = max(top, shares[first + i].x); }
      var sum = 0.0;
      for (var i = 0u; i < PER_ROW; i++) { sum += shares[first + i].y * exp(shares[first + i].x - top); }
      if (sum > 0.0) { logSum = top + log(sum); }
    }
  }
  let to = (qStart + query) * p.heads + head;
  if (query < qLength && within % PER_ROW == 0u) { lse[p.lse + to] = logSum; }
  for (var c = 0u; c < COLUMNS; c++) {
    workgroupBarrier();
    subgroupMatrixStore<row_major>(&scores, strip, outs[c], WIDTH);
    workgroupBarrier();
    if (query < qLength) {
      for (var d = within % PER_ROW; d < MN; d += PER_ROW) {
        out[p.out + to * D + c * MN + d] = scores[subgroup * STRIP + mine * WIDTH + d];
      }
    }
  }
}
