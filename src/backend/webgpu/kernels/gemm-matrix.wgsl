// gemm.wgsl on subgroup matrices (tensor cores): f16 tiles in workgroup memory, f32 sums. A comes packed and scaled
// (pack-rows.wgsl), B through b4 in any weight format. A workgroup makes BM x BN in steps of BK; its subgroups stand in a
// grid and make WM x WN each, as matrices of MM x MN x MK. Needs chromium_experimental_subgroup_matrix, and subgroups of
// exactly SUBGROUP lanes.

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sum = subgroup_matrix_result<f32, MN, MM>;

const COLUMNS = BN / WN; // subgroups side by side
const SUBGROUPS = (BM / WM) * COLUMNS;
const THREADS = SUBGROUPS * SUBGROUP;
const TM = WM / MM;
const TN = WN / MN;
// Rows of tiles: along k in mode 0, along m (n) in mode 1, as in memory; padded off one bank.
const ROW_A = select(BM, BK, A_MODE == 0u) + 8u;
const ROW_B = select(BN, BK, B_MODE == 0u) + 8u;
const ROWS_A = select(BK, BM, A_MODE == 0u);
const ROWS_B = select(BK, BN, B_MODE == 0u);
const EIGHTS_A = BM * BK / 8u;
const FOURS_B = BN * BK / 4u;

@group(0) @binding(1) var<storage, read> a: array<vec4u>;

var<workgroup> tileA: array<f16, ROWS_A * ROW_A>;
var<workgroup> tileB: array<f16, ROWS_B * ROW_B>;
var<workgroup> results: array<f32, SUBGROUPS * MM * MN>;

fn loadA(at: u32, firstM: u32, k0: u32, endK: u32) {
  let perRow = (ROW_A - 8u) / 8u;
  let row = at / perRow;
  let eight = at % perRow;
  let line = select(k0, firstM, A_MODE == 0u) + row;
  let column = select(firstM, k0, A_MODE == 0u) + eight * 8u;
  var words = vec4u(0u);
  // Rows end in zeros up to a multiple of eight; slices of K end at one.
  if (line < select(endK, p.m, A_MODE == 0u) && column < select(p.m, endK, A_MODE == 0u)) {
    words = a[p.a + p.firstRow + (line * p.lda + column) / 8u];
  }
  let to = row * ROW_A + eight * 8u;
  for (var i = 0u; i < 4u; i++) {
    let pair = bitcast<vec2<f16>>(words[i]);
    tileA[to + 2u * i] = pair.x;
    tileA[to + 2u * i + 1u] = pair.y;
  }
}

fn loadB(at: u32, firstN: u32, k0: u32, endK: u32, factor: f32) {
  let perRow = (ROW_B - 8u) / 4u;
  let row = at / perRow;
  let four = at % perRow;
  var values: vec4<f16>;
  if (B_MODE == 0u) {
    values = vec4<f16>(b4(firstN + row, k0 + four * 4u, p.n, endK) * factor);
  } else {
    values = vec4<f16>(b4(k0 + row, firstN + four * 4u, endK, p.n) * factor);
  }
  let to = row * ROW_B + four * 4u;
  tileB[to] = values.x;
  tileB[to + 1u] = values.y;
  tileB[to + 2u] = values.z;
  tileB[to + 3u] = values.w;
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
) {
  let firstM = group.x * BM;
  let firstN = group.y * BN;
  let beginK = group.z * p.kPerSplit;
  let endK = min(p.k, beginK + p.kPerSplit);
  let subM = (subgroup / COLUMNS) * WM;
  let subN = (subgroup % COLUMNS) * WN;
  let factor = bitcast<f32>(a[p.a].x);
  var sums: array<Sum, TM * TN>;
  for (var i = 0u; i < TM * TN; i++) { sums[i] = Sum(0.0); }
  for (var k0 = beginK; k0 < endK; k0 += BK) {
    for (var at = lane; at < EIGHTS_A; at += THREADS) { loadA(at, firstM, k0, endK); }
    for (var at = lane; at < FOURS_B; at += THREADS) { loadB(at, firstN, k0, endK, factor); }
    workgroupBarrier();
    for (var k = 0u; k < BK; k += MK) {
      var rights: array<Right, TN>;
      for (var j = 0u; j < TN; j++) {
        let n = subN + j * MN;
        if (B_MODE == 0u) {
          rights[j] = subgroupMatrixLoad<Right, col_major>(&tileB, n * ROW_B + k, ROW_B);
        } else {
          rights[j] = subgroupMatrixLoad<Right, row_major>(&tileB, k * ROW_B + n, ROW_B);
        }
      }
      for (var i = 0u; i < TM; i++) {
        let m = subM + i * MM;
        var left: Left;
        if (A_MODE == 0u) {
          left = subgroupMatrixLoad<Left, row_major>(&tileA, m * ROW_A + k, ROW_A);
        } else {
          left = subgroupMatrixLoad<Left, col_major>(&tileA, k * ROW_A + m, ROW_A);
        }
        for (var j = 0u; j < TN; j++) {
          sums[i * TN + j] = subgroupMatrixMultiplyAccumulate(left, rights[j], sums[i * TN + j]);
        }
      }
    }
    workgroupBarrier();
  }
  // Results pass through workgroup memory, one matrix a subgroup at a time.
  let base = subgroup * MM * MN;
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN; j++) {
      subgroupMatrixStore<row_major>(&results, base, sums[i * TN + j], MN);
      workgroupBarrier();
      for (var at = within; at < MM * MN / 4u; at += SUBGROUP) {
        let m = firstM + subM + i * MM + at / (MN / 4u);
        let n = firstN + subN + j * MN + (at % (MN / 4u)) * 4u;
        if (m < p.m) {
          let first = base + at * 4u;
          let scale = select(4u, 4u + m, A_MODE == 0u);
          let v = vec4f(results[first], results[first + 1u], results[first + 2u], results[first + 3u])
            * bitcast<f32>(a[p.a + scale / 4u][scale & 3u]);
          if (SPLIT == 1u) { emitPartial(group.z, m, n, v); } else { emit4(m, n, v); }
        }
      }
      workgroupBarrier();
    }
  }
}
