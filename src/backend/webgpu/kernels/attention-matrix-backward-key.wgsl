// dK and dV on subgroup matrices: a subgroup takes MM keys of one key/value head; over every head of its group and every
// tile of queries, with keys as rows: dV = P^T dOut, dK = dS^T Q. Scaled as attention-matrix-backward-query.wgsl.

@group(0) @binding(3) var<storage, read> statistics: array<vec2f>; // (lse, delta)
@group(0) @binding(4) var<storage, read> largest: array<u32>;
@group(0) @binding(5) var<storage, read_write> dk: array<f32>;
@group(0) @binding(6) var<storage, read_write> dv: array<f32>;

var<workgroup> slopes: array<f32, STRIPS * STRIP>;
var<workgroup> dScores: array<f16, STRIPS * STRIP>;

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
  let firstKey = group.x * STRIPS * MM;
  if (firstKey >= length) { return; }
  let kvHead = group.y;
  let perGroup = p.heads / p.kvHeads;
  let qStride = p.heads * D;
  let kStride = p.kvHeads * D;
  let strip = subgroup * STRIP;
  let mine = within / PER_ROW;
  let key = firstKey + subgroup * MM + mine;
  let factor = halfFactor(largest[p.largest]);
  var endQuery = length;
  if (p.window > 0u) { endQuery = min(length, firstKey + STRIPS * MM - 1u + p.window); }

  let rowAt = (kStart + firstKey + subgroup * MM) * kStride + kvHead * D;
  var sumsK: array<Sum, COLUMNS>;
  var sumsV: array<Sum, COLUMNS>;
  for (var c = 0u; c < COLUMNS; c++) {
    sumsK[c] = Sum(0.0);
    sumsV[c] = Sum(0.0);
  }
  for (var head = kvHead * perGroup; head < (kvHead + 1u) * perGroup; head++) {
    for (var query0 = firstKey; query0 < endQuery; query0 += WIDTH) {
      for (var j = 0u; j < ACROSS; j++) {
        var score = Sum(0.0);
        var slope = Sum(0.0);
        let at = (qStart + query0 + j * MN) * qStride + head * D;
        for (var s = 0u; s < STEPS; s++) {
          let k = subgroupMatrixLoad<Left, row_major>(&halves, p.kAt + rowAt + s * MK, kStride);
          let v = subgroupMatrixLoad<Left, row_major>(&halves, p.vAt + rowAt + s * MK, kStride);
          score = subgroupMatrixMultiplyAccumulate(k, subgroupMatrixLoad<Right, col_major>(&halves, p.qAt + at + s * MK, qStride), score);
          slope = subgroupMatrixMultiplyAccumulate(v, subgroupMatrixLoad<Right, col_major>(&halves, p.dOutAt + at + s * MK, qStride), slope);
        }
        subgroupMatrixStore<row_major>(&scores, strip + j * MN, score, WIDTH);
        subgroupMatrixStore<row_major>(&slopes, strip + j * MN, slope, WIDTH);
      }
      workgroupBarrier();
      for (var c = within % PER_ROW; c < WIDTH; c += PER_ROW) {
        let at = subgroup * STRIP + mine * WIDTH + c;
        let query = query0 + c;
        var weight = 0.0;
        var dScore = 0.0;
        if (query < length && key < length && visible(query, key)) {
          let known = statistics[p.statistics + (qStart + query) * p.heads + head];
          weight = exp(min(scores[at] * p.scale - known.x, 0.0));
          dScore = clamp(p.scale * weight * (slopes[at] - known.y * factor), -65504.0, 65504.0);
        }
        weights[at] = f16(weight);
        dScores[at] = f16(dScore);
      }
      workgroupBarrier();
      for (var s = 0u; s < DEEP; s++) {
        let left = subgroupMatrixLoad<Left, row_major>(&weights, strip + s * MK, WIDTH);
        let leftS = subgroupMatrixLoad<Left, row_major>(&dScores, strip + s * MK, WIDTH);
        let at = (qStart + query0 + s * MK) * qStride + head * D;
        for (var c = 0u; c < COLUMNS; c++) {
          sumsV[c] = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&halves, p.dOutAt + at + c * MN, qStride), sumsV[c]);
          sumsK[c] = subgroupMatrixMultiplyAccumulate(leftS, subgroupMatrixLoad<Right, row_major>(&halves, p.qAt + at + c * MN, qStride), sumsK[c]);
        }
      }
    }
  }
  for (var c = 0u; c < COLUMNS; c++) {
    workgroupBarrier();
    subgroupMatrixStore<row_major>(&scores, strip, sumsK[c], WIDTH);
    subgroupMatrixStore<row_major>(&slopes, strip, sumsV[c], WIDTH);
    workgroupBarrier();
    if (key < length) {
      for (var d = within % PER_ROW; d < MN; d += PER_ROW) {
        let to = ((kStart + key) * p.kvHeads + kvHead) * D + c * MN + d;
        dk[p.first + to] = scores[subgroup * STRIP + mine * WIDTH + d] / factor;
        dv[p.second + to] = slopes[subgroup * STRIP + mine * WIDTH + d] / factor;
      }
    }
  }
}
