// dQ on subgroup matrices: a subgroup takes MM queries of one head; dS = scale P (dOut v - delta) in f16, dQ = dS K.
// dOut is scaled by halfFactor(largest), which the result is divided by.

@group(0) @binding(3) var<storage, read> statistics: array<vec2f>; // (lse, delta)
@group(0) @binding(4) var<storage, read> largest: array<u32>;
@group(0) @binding(5) var<storage, read_write> dq: array<f32>;

var<workgroup> slopes: array<f32, STRIPS * STRIP>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
) {
  let row = p.table + 4u * group.z;
  let qStart = u32(table[row]);
  let length = u32(table[row + 1u]);
  let kStart = u32(table[row + 2u]);
  let firstQuery = group.x * STRIPS * MM;
  if (firstQuery >= length) { return; }
  let head = group.y;
  let kvHead = head * p.kvHeads / p.heads;
  let endKey = min(length, firstQuery + STRIPS * MM);
  var beginKey = 0u;
  if (p.window > 0u && firstQuery + 1u > p.window) { beginKey = firstQuery + 1u - p.window; }
  let qStride = p.heads * D;
  let kStride = p.kvHeads * D;
  let strip = subgroup * STRIP;
  let mine = within / PER_ROW;
  let query = firstQuery + subgroup * MM + mine;
  let factor = halfFactor(largest[p.largest]);
  var known = vec2f(0.0);
  if (query < length) { known = statistics[p.statistics + (qStart + query) * p.heads + head]; }

  let rowAt = (qStart + firstQuery + subgroup * MM) * qStride + head * D;
  var sums: array<Sum, COLUMNS>;
  for (var c = 0u; c < COLUMNS; c++) { sums[c] = Sum(0.0); }
  for (var key0 = beginKey; key0 < endKey; key0 += WIDTH) {
    for (var j = 0u; j < ACROSS; j++) {
      var score = Sum(0.0);
      var slope = Sum(0.0);
      let at = (kStart + key0 + j * MN) * kStride + kvHead * D;
      for (var s = 0u; s < STEPS; s++) {
        let q = subgroupMatrixLoad<Left, row_major>(&halves, p.qAt + rowAt + s * MK, qStride);
        let o = subgroupMatrixLoad<Left, row_major>(&halves, p.dOutAt + rowAt + s * MK, qStride);
        score = subgroupMatrixMultiplyAccumulate(q, subgroupMatrixLoad<Right, col_major>(&halves, p.kAt + at + s * MK, kStride), score);
        slope = subgroupMatrixMultiplyAccumulate(o, subgroupMatrixLoad<Right, col_major>(&halves, p.vAt + at + s * MK, kStride), slope);
      }
      subgroupMatrixStore<row_major>(&scores, strip + j * MN, score, WIDTH);
      subgroupMatrixStore<row_major>(&slopes, strip + j * MN, slope, WIDTH);
    }
    workgroupBarrier();
    for (var c = within % PER_ROW; c < WIDTH; c += PER_ROW) {
      let at = subgroup * STRIP + mine * WIDTH + c;
      var dScore = 0.0;
      if (query < length && visible(query, key0 + c)) {
        let weight = exp(min(scores[at] * p.scale - known.x, 0.0));
        dScore = clamp(p.scale * weight * (slopes[at] - known.y * factor), -65504.0, 65504.0);
      }
      weights[at] = f16(dScore);
    }
    workgroupBarrier();
    for (var s = 0u; s < DEEP; s++) {
      let left = subgroupMatrixLoad<Left, row_major>(&weights, strip + s * MK, WIDTH);
      let at = p.kAt + (kStart + key0 + s * MK) * kStride + kvHead * D;
      for (var c = 0u; c < COLUMNS; c++) {
        sums[c] = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&halves, at + c * MN, kStride), sums[c]);
      }
    }
  }
  for (var c = 0u; c < COLUMNS; c++) {
    workgroupBarrier();
    subgroupMatrixStore<row_major>(&scores, strip, sums[c], WIDTH);
    workgroupBarrier();
    if (query < length) {
      for (var d = within % PER_ROW; d < MN; d += PER_ROW) {
        dq[p.first + ((qStart + query) * p.heads + head) * D + c * MN + d] = scores[subgroup * STRIP + mine * WIDTH + d] / factor;
      }
    }
  }
}
