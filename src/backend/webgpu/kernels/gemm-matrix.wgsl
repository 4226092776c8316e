// gemm.wgsl on subgroup matrices (tensor cores): f16 tiles in workgroup memory, f32 sums. A comes packed and scaled
// (pack-rows.wgsl), B eight elements at a time in any weight format (matrix-b-*.wgsl). A workgroup makes BM x BN in steps of
// BK; its subgroups stand in a grid and make WM x WN each, as matrices of MM x MN x MK. The next step's loads are on their way
// while this one multiplies; with BUFFERS 2 one barrier a step is enough. An adapter is further steps along K. Needs
// chromium_experimental_subgroup_matrix, and subgroups of exactly SUBGROUP lanes.

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sum = subgroup_matrix_result<f32, MN, MM>;

const COLUMNS = BN / WN; // subgroups side by side
const SUBGROUPS = (BM / WM) * COLUMNS;
const THREADS = SUBGROUPS * SUBGROUP;
const TM = WM / MM;
const TN = WN / MN;
// Tiles hold eight elements a vector. Their rows lie along k in mode 0, along m (n) in mode 1, as in memory, and end in a
// vector of padding that keeps them off one bank.
const EIGHTS_A = select(BM, BK, A_MODE == 0u) / 8u;
const EIGHTS_B = select(BN, BK, B_MODE == 0u) / 8u;
const ROWS_A = select(BK, BM, A_MODE == 0u);
const ROWS_B = select(BK, BN, B_MODE == 0u);
const ROW_A = EIGHTS_A + 1u;
const ROW_B = EIGHTS_B + 1u;
const SIZE_A = ROWS_A * ROW_A;
const SIZE_B = ROWS_B * ROW_B;
const LOADS_A = (ROWS_A * EIGHTS_A + THREADS - 1u) / THREADS; // of each lane in a step
const LOADS_B = (ROWS_B * EIGHTS_B + THREADS - 1u) / THREADS;

@group(0) @binding(1) var<storage, read> a: array<vec4u>;

var<workgroup> tileA: array<vec4u, BUFFERS * SIZE_A>;
var<workgroup> tileB: array<vec4u, BUFFERS * SIZE_B>;
var<workgroup> results: array<f32, SUBGROUPS * MM * MN>;
var<workgroup> tops: array<atomic<u32>, 2>;

/// What the packed rows are to be multiplied by in the end.
fn inverseScale(m: u32) -> u32 {
  let at = select(4u, 4u + m, A_MODE == 0u);
  return a[p.a + at / 4u][at & 3u];
}

fn fetchA8(at: u32, firstM: u32, k0: u32, endK: u32) -> vec4u {
  let line = select(k0, firstM, A_MODE == 0u) + at / EIGHTS_A;
  let column = select(firstM, k0, A_MODE == 0u) + (at % EIGHTS_A) * 8u;
  // Rows end in zeros up to a multiple of eight; slices of K end at one.
  if (line >= select(endK, p.m, A_MODE == 0u) || column >= select(p.m, endK, A_MODE == 0u)) { return vec4u(0u); }
  return a[p.a + p.firstRow + (line * p.lda + column) / 8u];
}

fn fetchB(at: u32, firstN: u32, k0: u32, endK: u32, factor: f32) -> RawB {
  let line = at / EIGHTS_B;
  let column = (at % EIGHTS_B) * 8u;
  if (B_MODE == 0u) { return fetchB8(firstN + line, k0 + column, p.n, endK, factor); }
  return fetchB8(k0 + line, firstN + column, endK, p.n, factor);
}

/// u of row m, in the units of the packed rows.
fn scaledU(m: u32, r: u32) -> f32 {
  if (m >= p.m) { return 0.0; }
  return uAt(m, r) * bitcast<f32>((254u << 23u) - inverseScale(m));
}

fn exponentOf(bits: u32) -> i32 { return i32(bits >> 23u) - 127; }

fn eightHalves(v: array<f32, 8>, factor: f32) -> vec4u {
  var words: vec4u;
  for (var i = 0u; i < 4u; i++) {
    words[i] = pack2x16float(clamp(vec2f(v[2u * i], v[2u * i + 1u]) * factor, vec2f(-65504.0), vec2f(65504.0)));
  }
  return words;
}

/// The largest magnitudes of this tile's rows of u and of F, by their bits.
fn findTops(lane: u32, firstM: u32, firstN: u32) {
  var top = vec2u(0u);
  for (var at = lane; at < BM * p.rank; at += THREADS) {
    top.x = max(top.x, bitcast<u32>(scaledU(firstM + at / p.rank, at % p.rank)) & 0x7fffffffu);
  }
  for (var at = lane; at < BN * p.rank; at += THREADS) {
    top.y = max(top.y, bitcast<u32>(factorAt(firstN + at / p.rank, at % p.rank)) & 0x7fffffffu);
  }
  atomicMax(&tops[0], top.x);
  atomicMax(&tops[1], top.y);
}

/// Elements [r0, r0 + BK) of u and F as tiles, times a power of two and its inverse that bring them to the same size, lest
/// small factors lose digits in f16.
fn storeAdapter(lane: u32, firstM: u32, firstN: u32, r0: u32, toA: u32, toB: u32) {
  let topU = atomicLoad(&tops[0]);
  let topF = atomicLoad(&tops[1]);
  var shift = clamp((exponentOf(topU) - exponentOf(topF)) / 2, -100, 100);
  if (topU == 0u || topF == 0u) { shift = 0; }
  let more = bitcast<f32>(u32(127 + shift) << 23u);
  let less = bitcast<f32>(u32(127 - shift) << 23u);
  for (var at = lane; at < BM * BK / 8u; at += THREADS) {
    var v: array<f32, 8>;
    for (var i = 0u; i < 8u; i++) { v[i] = scaledU(firstM + at / EIGHTS_A, r0 + (at % EIGHTS_A) * 8u + i); }
    tileA[toA + (at / EIGHTS_A) * ROW_A + at % EIGHTS_A] = eightHalves(v, less);
  }
  for (var at = lane; at < BN * BK / 8u; at += THREADS) {
    let line = at / EIGHTS_B;
    let column = (at % EIGHTS_B) * 8u;
    var v: array<f32, 8>;
    for (var i = 0u; i < 8u; i++) {
      if (B_MODE == 0u) { v[i] = factorAt(firstN + line, r0 + column + i); } else { v[i] = factorAt(firstN + column + i, r0 + line); }
    }
    tileB[toB + line * ROW_B + column / 8u] = eightHalves(v, more);
  }
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
  let steps = (endK - beginK + BK - 1u) / BK;
  // The first slice of K makes the adapter's steps.
  var adapterSteps = 0u;
  if (ADAPTER == 1u && group.z == 0u) { adapterSteps = (p.rank + BK - 1u) / BK; }
  var nextA: array<vec4u, LOADS_A>;
  var nextB: array<RawB, LOADS_B>;
  for (var i = 0u; i < LOADS_A; i++) { nextA[i] = fetchA8(lane + i * THREADS, firstM, beginK, endK); }
  for (var i = 0u; i < LOADS_B; i++) { nextB[i] = fetchB(lane + i * THREADS, firstN, beginK, endK, factor); }
  prepareB(lane, THREADS);
  if (ADAPTER == 1u) { findTops(lane, firstM, firstN); }
  var sums: array<Sum, TM * TN>;
  for (var i = 0u; i < TM * TN; i++) { sums[i] = Sum(0.0); }
  workgroupBarrier();
  for (var step = 0u; step < steps + adapterSteps; step++) {
    let toA = (step % BUFFERS) * SIZE_A;
    let toB = (step % BUFFERS) * SIZE_B;
    if (step < steps) {
      for (var i = 0u; i < LOADS_A; i++) {
        let at = lane + i * THREADS;
        if (at < ROWS_A * EIGHTS_A) { tileA[toA + (at / EIGHTS_A) * ROW_A + at % EIGHTS_A] = nextA[i]; }
      }
      for (var i = 0u; i < LOADS_B; i++) {
        let at = lane + i * THREADS;
        if (at < ROWS_B * EIGHTS_B) { tileB[toB + (at / EIGHTS_B) * ROW_B + at % EIGHTS_B] = decodeB8(nextB[i]); }
      }
    } else if (ADAPTER == 1u) {
      storeAdapter(lane, firstM, firstN, (step - steps) * BK, toA, toB);
    }
    workgroupBarrier();
    if (step + 1u < steps) {
      let k0 = beginK + (step + 1u) * BK;
      for (var i = 0u; i < LOADS_A; i++) { nextA[i] = fetchA8(lane + i * THREADS, firstM, k0, endK); }
      for (var i = 0u; i < LOADS_B; i++) { nextB[i] = fetchB(lane + i * THREADS, firstN, k0, endK, factor); }
    }
    for (var k = 0u; k < BK; k += MK) {
      var rights: array<Right, TN>;
      for (var j = 0u; j < TN; j++) {
        let n = subN + j * MN;
        if (B_MODE == 0u) {
          rights[j] = subgroupMatrixLoad<Right, col_major>(&tileB, toB + n * ROW_B + k / 8u, ROW_B);
        } else {
          rights[j] = subgroupMatrixLoad<Right, row_major>(&tileB, toB + k * ROW_B + n / 8u, ROW_B);
        }
      }
      for (var i = 0u; i < TM; i++) {
        let m = subM + i * MM;
        var left: Left;
        if (A_MODE == 0u) {
          left = subgroupMatrixLoad<Left, row_major>(&tileA, toA + m * ROW_A + k / 8u, ROW_A);
        } else {
          left = subgroupMatrixLoad<Left, col_major>(&tileA, toA + k * ROW_A + m / 8u, ROW_A);
        }
        for (var j = 0u; j < TN; j++) {
          sums[i * TN + j] = subgroupMatrixMultiplyAccumulate(left, rights[j], sums[i * TN + j]);
        }
      }
    }
    if (BUFFERS == 1u) { workgroupBarrier(); }
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
          let v = vec4f(results[first], results[first + 1u], results[first + 2u], results[first + 3u])
            * bitcast<f32>(inverseScale(m));
          if (SPLIT == 1u) { emitPartial(group.z, m, n, v); } else { emit4(m, n, v); }
        }
      }
      workgroupBarrier();
    }
  }
}
