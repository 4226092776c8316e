// Gradients of low-rank factors, those of all layers that share an input in one launch: dB[o, r] += scale * sum over t of
// dy[t, o] u[t, r], and dA[r, i] += sum over t of du[t, r] x[t, i]; "grads" holds them all. A workgroup takes 64 columns of
// one of the wide operands and eight ranks; 16 lanes share the tokens, and their sums are added in order. "wants" has bit j
// where layer j's dB is wanted, bit 4 + j for its dA. Wide operands come through gradients-*.wgsl.

const COLUMNS = 64u;
const SHARERS = 16u;
var<workgroup> shares: array<vec4f, 256>; // [sharer][16 vectors]

fn outputsOf(part: u32) -> u32 { return array<u32, 3>(p.outputs0, p.outputs1, p.outputs2)[part]; }
fn rankOf(part: u32) -> u32 { return array<u32, 3>(p.rank0, p.rank1, p.rank2)[part]; }

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  // Which gradient this workgroup makes: dB of layers 0, 1, 2, then dA of them.
  var tile = group.x;
  var job = 0u;
  for (; job < 6u; job++) {
    let width = select(p.inputs, outputsOf(job % 3u), job < 3u);
    let wanted = (p.wants >> select(job + 1u, job, job < 3u)) & 1u;
    let tiles = wanted * ((width + COLUMNS - 1u) / COLUMNS);
    if (tile < tiles) { break; }
    tile -= tiles;
  }
  let part = job % 3u;
  let isB = job < 3u;
  let rank = rankOf(part);
  let r0 = group.y * 8u;
  if (job >= 6u || r0 >= rank) { return; }
  let width = select(p.inputs, outputsOf(part), isB);
  let column = tile * COLUMNS + (lane % 16u) * 4u;
  var duColumn = r0;
  for (var before = 0u; before < part; before++) { duColumn += rankOf(before); }

  var sums: array<vec4f, 8>;
  for (var t = lane / 16u; t < p.tokens; t += SHARERS) {
    var wide: vec4f;
    if (isB) { wide = dy4(part, t, column, width); } else { wide = x4(t, column, width); }
    for (var r = 0u; r < 8u; r++) {
      if (r0 + r < rank) {
        var narrow: f32;
        if (isB) { narrow = uOf(part, t * rank + r0 + r); } else { narrow = du[p.du + t * p.ldu + duColumn + r]; }
        sums[r] += narrow * wide;
      }
    }
  }
  let factor = select(1.0, array<f32, 3>(p.scale0, p.scale1, p.scale2)[part], isB);
  let first = select(array<u32, 3>(p.dA0, p.dA1, p.dA2)[part], array<u32, 3>(p.dB0, p.dB1, p.dB2)[part], isB);
  for (var r = 0u; r < 8u; r++) {
    shares[lane] = sums[r];
    workgroupBarrier();
    let to = tile * COLUMNS + lane;
    if (lane < COLUMNS && to < width && r0 + r < rank) {
      var sum = 0.0;
      for (var i = 0u; i < SHARERS; i++) { sum += shares[i * 16u + lane / 4u][lane % 4u]; }
      let at = p.grads + first + select((r0 + r) * width + to, to * rank + r0 + r, isB);
      grads[at] += sum * factor;
    }
    workgroupBarrier();
  }
}
