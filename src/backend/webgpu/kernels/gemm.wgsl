// C [M, N] = epilogue(A B), tiled: a workgroup makes a BM x BN tile, an invocation TM x TN of it in registers, from tiles of
// A and B in workgroup memory, BK deep. Operands come through a4 and b4 (operand-*.wgsl), which convert and dequantise, so
// every weight format shares this file. With SPLIT, slice z of K goes to its own partial product (reduce-splits.wgsl).
// TileB is f16 for frozen weights on devices that have it: half the workgroup memory, and exact for f16 weights. An adapter's
// few elements along K come last, straight from memory.

const GROUPS_M = BM / TM;
const GROUPS_N = BN / TN;
const THREADS = GROUPS_M * GROUPS_N;
const BLOCKS_A = BM * BK / 16u; // of 4 x 4 elements
const BLOCKS_B = BN * BK / 16u;
const STRIDE_A = BM / 4u + 1u; // one vector of padding keeps the transposing stores off one bank
const STRIDE_B = BN / 4u + 1u;

var<workgroup> tileA: array<vec4f, BK * STRIDE_A>; // [k][m / 4]
var<workgroup> tileB: array<vec4<TileB>, BK * STRIDE_B>; // [k][n / 4]

fn loadA(block: u32, firstM: u32, firstK: u32, endK: u32) {
  // A 4 x 4 block of A, as four vectors along m. Neighbouring invocations read neighbouring memory in both modes.
  var v: array<vec4f, 4>;
  var mBlock: u32;
  var kBlock: u32;
  if (A_MODE == 0u) {
    mBlock = block / (BK / 4u);
    kBlock = block % (BK / 4u);
    let k = firstK + kBlock * 4u;
    var r: array<vec4f, 4>;
    for (var i = 0u; i < 4u; i++) {
      let m = firstM + mBlock * 4u + i;
      r[i] = a4(m, k, p.m, endK);
      if (DROPOUT == 1u) { r[i] *= mask4(m, k); }
    }
    for (var i = 0u; i < 4u; i++) { v[i] = vec4f(r[0][i], r[1][i], r[2][i], r[3][i]); }
  } else {
    mBlock = block % (BM / 4u);
    kBlock = block / (BM / 4u);
    for (var i = 0u; i < 4u; i++) { v[i] = a4(firstK + kBlock * 4u + i, firstM + mBlock * 4u, endK, p.m); }
  }
  for (var i = 0u; i < 4u; i++) { tileA[(kBlock * 4u + i) * STRIDE_A + mBlock] = v[i]; }
}

fn loadB(block: u32, firstN: u32, firstK: u32, endK: u32) {
  var v: array<vec4f, 4>;
  var nBlock: u32;
  var kBlock: u32;
  if (B_MODE == 0u) {
    nBlock = block / (BK / 4u);
    kBlock = block % (BK / 4u);
    let k = firstK + kBlock * 4u;
    var r: array<vec4f, 4>;
    for (var i = 0u; i < 4u; i++) { r[i] = b4(firstN + nBlock * 4u + i, k, p.n, endK); }
    for (var i = 0u; i < 4u; i++) { v[i] = vec4f(r[0][i], r[1][i], r[2][i], r[3][i]); }
  } else {
    nBlock = block % (BN / 4u);
    kBlock = block / (BN / 4u);
    for (var i = 0u; i < 4u; i++) {
      let k = firstK + kBlock * 4u + i;
      v[i] = b4(k, firstN + nBlock * 4u, endK, p.n);
      if (DROPOUT == 2u) { v[i] *= mask4(k, firstN + nBlock * 4u); }
    }
  }
  for (var i = 0u; i < 4u; i++) { tileB[(kBlock * 4u + i) * STRIDE_B + nBlock] = vec4<TileB>(v[i]); }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let firstM = group.x * BM;
  let firstN = group.y * BN;
  let beginK = group.z * p.kPerSplit;
  let endK = min(p.k, beginK + p.kPerSplit);
  let laneM = lane / GROUPS_N;
  let laneN = lane % GROUPS_N;
  var sums: array<vec4f, TM * TN / 4u>; // [TM][TN / 4]
  prepareB(lane, THREADS);
  workgroupBarrier();
  for (var k0 = beginK; k0 < endK; k0 += BK) {
    for (var block = lane; block < BLOCKS_A + BLOCKS_B; block += THREADS) {
      if (block < BLOCKS_A) { loadA(block, firstM, k0, endK); } else { loadB(block - BLOCKS_A, firstN, k0, endK); }
    }
    workgroupBarrier();
    for (var k = 0u; k < BK; k++) {
      var bs: array<vec4f, TN / 4u>;
      for (var j = 0u; j < TN / 4u; j++) { bs[j] = vec4f(tileB[k * STRIDE_B + j * GROUPS_N + laneN]); }
      for (var i = 0u; i < TM / 4u; i++) {
        let as_ = tileA[k * STRIDE_A + i * GROUPS_M + laneM];
        for (var j = 0u; j < TN / 4u; j++) {
          sums[(4u * i) * (TN / 4u) + j] += as_.x * bs[j];
          sums[(4u * i + 1u) * (TN / 4u) + j] += as_.y * bs[j];
          sums[(4u * i + 2u) * (TN / 4u) + j] += as_.z * bs[j];
          sums[(4u * i + 3u) * (TN / 4u) + j] += as_.w * bs[j];
        }
      }
    }
    workgroupBarrier();
  }
  if (ADAPTER == 1u && group.z == 0u) {
    for (var r = 0u; r < p.rank; r++) {
      var fs: array<vec4f, TN / 4u>;
      for (var j = 0u; j < TN / 4u; j++) {
        let n = firstN + (j * GROUPS_N + laneN) * 4u;
        fs[j] = vec4f(factorAt(n, r), factorAt(n + 1u, r), factorAt(n + 2u, r), factorAt(n + 3u, r));
      }
      for (var i = 0u; i < TM; i++) {
        let x = uAt(firstM + ((i / 4u) * GROUPS_M + laneM) * 4u + (i & 3u), r);
        for (var j = 0u; j < TN / 4u; j++) { sums[i * (TN / 4u) + j] += x * fs[j]; }
      }
    }
  }
  for (var i = 0u; i < TM; i++) {
    let m = firstM + ((i / 4u) * GROUPS_M + laneM) * 4u + (i & 3u);
    for (var j = 0u; j < TN / 4u; j++) {
      let n = firstN + (j * GROUPS_N + laneN) * 4u;
      if (SPLIT == 1u) { emitPartial(group.z, m, n, sums[i * (TN / 4u) + j]); } else { emit4(m, n, sums[i * (TN / 4u) + j]); }
    }
  }
}
