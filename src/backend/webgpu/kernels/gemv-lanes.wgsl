// gemv.wgsl for adapters that are programs on a CPU, as gemm-lanes.wgsl is gemm.wgsl's: a subgroup of LANES lanes is a workgroup,
// each lane makes four columns of C for all ROWS rows, and what one lane has loaded of a row of A serves all lanes. A row's sums
// have one order, whatever rows are beside it.

var<private> sums: array<vec4f, ROWS>; // [row], a lane's four columns
var<private> bs: array<vec4f, 4>; // [column], four elements along K

fn take(row: u32, x: vec4f) {
  if (row < ROWS) { sums[row] += vec4f(dot(x, bs[0]), dot(x, bs[1]), dot(x, bs[2]), dot(x, bs[3])); }
}

fn rowsFrom(row: u32, lane: u32, k: u32) -> vec4f {
  var x = a4(row + lane, k, p.m, p.k);
  if (DROPOUT == 1u) { x *= mask4(row + lane, k); }
  return x;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let n = ((group.y * grid.x + group.x) * LANES + lane) * 4u;
  for (var m = 0u; m < ROWS; m++) { sums[m] = vec4f(0.0); }
  if (TABLES == 1u) {
    prepareB(lane, LANES);
    workgroupBarrier();
  }
  for (var k = 0u; k < p.k; k += 4u) {
    for (var c = 0u; c < 4u; c++) { bs[c] = b4(n + c, k, p.n, p.k); }
    let low = rowsFrom(0u, lane, k);
    take(0u, subgroupBroadcast(low, 0u));
    take(1u, subgroupBroadcast(low, 1u));
    take(2u, subgroupBroadcast(low, 2u));
    take(3u, subgroupBroadcast(low, 3u));
    if (ROWS > 4u) {
      var high = low;
      if (LANES < 8u) { high = rowsFrom(4u, lane, k); }
      take(4u, subgroupBroadcast(high, 4u % LANES));
      take(5u, subgroupBroadcast(high, 5u % LANES));
      take(6u, subgroupBroadcast(high, 6u % LANES));
      take(7u, subgroupBroadcast(high, 7u % LANES));
    }
  }
  for (var m = 0u; m < ROWS; m++) { emit4(m, n, sums[m]); }
}
