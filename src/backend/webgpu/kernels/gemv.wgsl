// C [M, N] = epilogue(A B^T) for at most ROWS rows of A, B [N, K] row by row: token generation, where a tile would be
// almost empty and the weights' own bytes are the cost. 32 lanes share an output column, four columns a workgroup.

const LANES = 32u;
var<workgroup> sums: array<f32, ROWS * 4u * LANES>; // [row][column][lane]

@compute @workgroup_size(LANES, 4)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let first = (group.y * grid.x + group.x) * 4u;
  let n = first + local.y;
  var acc: array<f32, ROWS>;
  prepareB(local.y * LANES + local.x, 4u * LANES);
  workgroupBarrier();
  if (n < p.n) {
    for (var k = local.x * 4u; k < p.k; k += LANES * 4u) {
      let w = b4(n, k, p.n, p.k);
      for (var m = 0u; m < ROWS; m++) {
        var x = a4(m, k, p.m, p.k);
        if (DROPOUT == 1u) { x *= mask4(m, k); }
        acc[m] += dot(x, w);
      }
    }
  }
  for (var m = 0u; m < ROWS; m++) { sums[(m * 4u + local.y) * LANES + local.x] = acc[m]; }
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local.x < half) {
      for (var m = 0u; m < ROWS; m++) {
        let at = (m * 4u + local.y) * LANES + local.x;
        sums[at] += sums[at + half];
      }
    }
  }
  workgroupBarrier();
  let m = local.x;
  if (local.y == 0u && m < ROWS) {
    let at = m * 4u * LANES;
    emit4(m, first, vec4f(sums[at], sums[at + LANES], sums[at + 2u * LANES], sums[at + 3u * LANES]));
  }
}
