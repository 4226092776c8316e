// C [M, N] = epilogue(A B) for adapters that are programs on a CPU: a subgroup of LANES lanes is a workgroup and makes
// BM x BN, each lane four rows of it. Such an adapter runs a subgroup as the elements of one vector and loads its elements one by
// one, from workgroup memory no faster than from any other, so what counts is how often a loaded element is used: a lane loads
// four elements of B for all lanes, and subgroupBroadcast hands them round, which is one instruction. No memory is shared and
// nothing waits. Operands come through a4 and b4 as in gemm.wgsl, whose modes, masks, adapters and slices of K this has too.

const VECTORS = BN / 4u;

var<private> sums: array<vec4f, 4u * VECTORS>; // [row][column / 4]
var<private> xs: array<vec4f, 4>; // a lane's four rows at four elements of K

/// Adds what lane "origin" has loaded of block "block" of LANES columns: one column of B at four k, or four columns at one k.
fn take(block: u32, origin: u32, v: vec4f) {
  if (B_MODE == 0u) {
    let column = block * LANES + origin;
    for (var i = 0u; i < 4u; i++) { sums[i * VECTORS + column / 4u][column % 4u] += dot(xs[i], v); }
  } else {
    let vector = block * (LANES / 4u) + origin / 4u;
    for (var i = 0u; i < 4u; i++) { sums[i * VECTORS + vector] += xs[i][origin % 4u] * v; }
  }
}

fn takeAll(block: u32, v: vec4f) {
  take(block, 0u, subgroupBroadcast(v, 0u));
  take(block, 1u, subgroupBroadcast(v, 1u));
  take(block, 2u, subgroupBroadcast(v, 2u));
  take(block, 3u, subgroupBroadcast(v, 3u));
  if (LANES > 4u) {
    take(block, 4u, subgroupBroadcast(v, 4u % LANES));
    take(block, 5u, subgroupBroadcast(v, 5u % LANES));
    take(block, 6u, subgroupBroadcast(v, 6u % LANES));
    take(block, 7u, subgroupBroadcast(v, 7u % LANES));
  }
  if (LANES > 8u) {
    take(block, 8u, subgroupBroadcast(v, 8u % LANES));
    take(block, 9u, subgroupBroadcast(v, 9u % LANES));
    take(block, 10u, subgroupBroadcast(v, 10u % LANES));
    take(block, 11u, subgroupBroadcast(v, 11u % LANES));
    take(block, 12u, subgroupBroadcast(v, 12u % LANES));
    take(block, 13u, subgroupBroadcast(v, 13u % LANES));
    take(block, 14u, subgroupBroadcast(v, 14u % LANES));
    take(block, 15u, subgroupBroadcast(v, 15u % LANES));
  }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let firstM = group.x * BM + lane * 4u;
  let firstN = group.y * BN;
  let beginK = group.z * p.kPerSplit;
  let endK = min(p.k, beginK + p.kPerSplit);
  for (var i = 0u; i < 4u * VECTORS; i++) { sums[i] = vec4f(0.0); }
  if (TABLES == 1u) {
    prepareB(lane, LANES);
    workgroupBarrier();
  }
  for (var k = beginK; k < endK; k += 4u) {
    if (A_MODE == 0u) {
      for (var i = 0u; i < 4u; i++) {
        xs[i] = a4(firstM + i, k, p.m, endK);
        if (DROPOUT == 1u) { xs[i] *= mask4(firstM + i, k); }
      }
    } else {
      let r0 = a4(k, firstM, endK, p.m);
      let r1 = a4(k + 1u, firstM, endK, p.m);
      let r2 = a4(k + 2u, firstM, endK, p.m);
      let r3 = a4(k + 3u, firstM, endK, p.m);
      for (var i = 0u; i < 4u; i++) { xs[i] = vec4f(r0[i], r1[i], r2[i], r3[i]); }
    }
    for (var block = 0u; block < BN / LANES; block++) {
      if (B_MODE == 0u) {
        takeAll(block, b4(firstN + block * LANES + lane, k, p.n, endK));
      } else {
        let row = k + lane % 4u;
        let column = firstN + block * LANES + (lane / 4u) * 4u;
        var v = b4(row, column, endK, p.n);
        if (DROPOUT == 2u) { v *= mask4(row, column); }
        takeAll(block, v);
      }
    }
  }
  if (ADAPTER == 1u && group.z == 0u) {
    for (var r = 0u; r < p.rank; r += 4u) {
      for (var i = 0u; i < 4u; i++) {
        let m = firstM + i;
        xs[i] = vec4f(uAt(m, r), uAt(m, r + 1u), uAt(m, r + 2u), uAt(m, r + 3u));
      }
      for (var block = 0u; block < BN / LANES; block++) {
        let n = firstN + block * LANES + select((lane / 4u) * 4u, lane, B_MODE == 0u);
        if (B_MODE == 0u) {
          takeAll(block, vec4f(factorAt(n, r), factorAt(n, r + 1u), factorAt(n, r + 2u), factorAt(n, r + 3u)));
        } else {
          let row = r + lane % 4u;
          takeAll(block, vec4f(factorAt(n, row), factorAt(n + 1u, row), factorAt(n + 2u, row), factorAt(n + 3u, row)));
        }
      }
    }
  }
  for (var i = 0u; i < 4u; i++) {
    for (var j = 0u; j < VECTORS; j++) {
      let n = firstN + j * 4u;
      if (SPLIT == 1u) {
        emitPartial(group.z, firstM + i, n, sums[i * VECTORS + j]);
      } else {
        emit4(firstM + i, n, sums[i * VECTORS + j]);
      }
    }
  }
}
