// attention.wgsl on subgroup matrices: a subgroup takes MM queries of one head and sweeps the keys twice, first for each
// query's log-sum-exp, then for its output, so that sums in matrices need no rescaling between. f16 inputs, f32 sums.

@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
// p.statistics is out's offset and p.largest lse's.

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
  let firstQuery = group.x * STRIPS * MM;
  if (firstQuery >= qLength) { return; }
  let head = group.y;
  let kvHead = head * p.kvHeads / p.heads;
  let before = kLength - qLength;
  let endKey = before + min(qLength, firstQuery + STRIPS * MM);
  var beginKey = 0u;
  if (p.window > 0u && before + firstQuery + 1u > p.window) { beginKey = before + firstQuery + 1u - p.window; }
  let qStride = p.heads * D;
  let kStride = p.kvHeads * D;
  let strip = subgroup * STRIP;
  let mine = within / PER_ROW; // this lane's row of the strip
  let query = firstQuery + subgroup * MM + mine;
  let position = before + query;

  var queries: array<Left, STEPS>;
  for (var s = 0u; s < STEPS; s++) {
    let at = p.qAt + (qStart + firstQuery + subgroup * MM) * qStride + head * D + s * MK;
    queries[s] = subgroupMatrixLoad<Left, row_major>(&halves, at, qStride);
  }
  var outs: array<Sum, COLUMNS>;
  for (var c = 0u; c < COLUMNS; c++) { outs[c] = Sum(0.0); }
  var largest = LOWEST;
  var total = 0.0;
  var logSum = 0.0;
  for (var sweep = 0u; sweep < 2u; sweep++) {
    for (var key0 = beginKey; key0 < endKey; key0 += WIDTH) {
      for (var j = 0u; j < ACROSS; j++) {
        var sum = Sum(0.0);
        let at = p.kAt + (kStart + key0 + j * MN) * kStride + kvHead * D;
        for (var s = 0u; s < STEPS; s++) {
          sum = subgroupMatrixMultiplyAccumulate(queries[s], subgroupMatrixLoad<Right, col_major>(&halves, at + s * MK, kStride), sum);
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
          let at = p.vAt + (kStart + key0 + s * MK) * kStride + kvHead * D;
          for (var c = 0u; c < COLUMNS; c++) {
            outs[c] = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&halves, at + c * MN, kStride), outs[c]);
          }
        }
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
  if (query < qLength && within % PER_ROW == 0u) { lse[p.largest + to] = logSum; }
  for (var c = 0u; c < COLUMNS; c++) {
    workgroupBarrier();
    subgroupMatrixStore<row_major>(&scores, strip, outs[c], WIDTH);
    workgroupBarrier();
    if (query < qLength) {
      for (var d = within % PER_ROW; d < MN; d += PER_ROW) {
        out[p.statistics + to * D + c * MN + d] = scores[subgroup * STRIP + mine * WIDTH + d];
      }
    }
  }
}
