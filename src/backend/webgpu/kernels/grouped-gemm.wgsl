// C[i] (+)= scale * A_i W_e^T, or A_i W_e where TRANSPOSED is 1, for the expert e whose row i is. A workgroup makes 32 rows
// of one expert by 32 columns, a thread 2 by 2 of them; which expert's, it counts from the offsets. ACCUMULATE 1: adds.

const TILE = 32u;
const DEPTH = 16u;
var<workgroup> left: array<f32, TILE * DEPTH>;
var<workgroup> right: array<f32, TILE * DEPTH>;

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u, @builtin(local_invocation_index) lane: u32) {
  // Tile group.y of all experts' tiles.
  var tile = group.y;
  var e = p.firstExpert;
  var first = 0u;
  var last = 0u;
  for (; e < p.lastExpert; e++) {
    first = u32(offsets[p.offsets + e]);
    last = u32(offsets[p.offsets + e + 1u]);
    let tiles = (last - first + TILE - 1u) / TILE;
    if (tile < tiles) { break; }
    tile -= tiles;
  }
  if (e == p.lastExpert) { return; }
  let row0 = first + tile * TILE;
  let column0 = group.x * TILE;
  var sums = array<f32, 4>(0.0, 0.0, 0.0, 0.0);
  for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
    for (var i = lane; i < TILE * DEPTH; i += 256u) {
      let row = row0 + i / DEPTH;
      let k = k0 + i % DEPTH;
      var value = 0.0;
      if (row < last && k < p.k) {
        var source = row;
        if (INDEX == 1u) { source = u32(index[p.index + row]); }
        value = a[p.a + source * p.k + k];
      }
      left[i] = value;
      var other = 0.0;
      if (TRANSPOSED == 1u) {
        let column = column0 + i % TILE;
        let depth = k0 + i / TILE;
        if (column < p.n && depth < p.k) { other = weight(e, depth, column); }
        right[(i % TILE) * DEPTH + i / TILE] = other;
      } else {
        let column = column0 + i / DEPTH;
        if (column < p.n && k < p.k) { other = weight(e, column, k); }
        right[i] = other;
      }
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) {
      let x0 = left[local.y * DEPTH + k];
      let x1 = left[(local.y + 16u) * DEPTH + k];
      let w0 = right[local.x * DEPTH + k];
      let w1 = right[(local.x + 16u) * DEPTH + k];
      sums[0] += x0 * w0;
      sums[1] += x0 * w1;
      sums[2] += x1 * w0;
      sums[3] += x1 * w1;
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < 4u; i++) {
    let row = row0 + local.y + 16u * (i / 2u);
    let column = column0 + local.x + 16u * (i % 2u);
    if (row >= last || column >= p.n) { continue; }
    let at = p.c + row * p.n + column;
    var value = p.scale * sums[i];
    if (ACCUMULATE == 1u) { value += c[at]; }
    c[at] = value;
  }
}
