// What attention-matrix-backward.wgsl has to know beside its inputs, in one buffer, so that it needs one binding for it, pairs
// of words: nothing yet (the bits of dOut's largest magnitude), the segments' table, and of each row [t, h] (lse, delta) with
// delta = sum over d of dOut * out. tops[g] is the largest magnitude of workgroup g's rows of dOut. 16 lanes a row.

struct Params { out: u32, dOut: u32, lse: u32, table: u32, known: u32, tops: u32, rows: u32, width: u32, pairs: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> out: array<f32>;
@group(0) @binding(2) var<storage, read> dOut: array<f32>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read> table: array<u32>;
@group(0) @binding(5) var<storage, read_write> known: array<vec2u>;
@group(0) @binding(6) var<storage, read_write> tops: array<u32>;

var<workgroup> sums: array<f32, 128>;
var<workgroup> largest: array<u32, 128>;

@compute @workgroup_size(16, 8)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_id) local: vec3u,
) {
  let g = group.y * grid.x + group.x;
  let row = g * 8u + local.y;
  let lane = local.y * 16u + local.x;
  if (g == 0u) {
    for (var i = lane; i < p.pairs; i += 128u) {
      known[p.known + 1u + i] = vec2u(table[p.table + 2u * i], table[p.table + 2u * i + 1u]);
    }
  }
  var sum = 0.0;
  var top = 0u;
  if (row < p.rows) {
    for (var d = local.x; d < p.width; d += 16u) {
      let upstream = dOut[p.dOut + row * p.width + d];
      sum += out[p.out + row * p.width + d] * upstream;
      top = max(top, bitcast<u32>(upstream) & 0x7fffffffu);
    }
  }
  sums[lane] = sum;
  largest[lane] = top;
  for (var half = 8u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local.x < half) {
      sums[lane] += sums[lane + half];
      largest[lane] = max(largest[lane], largest[lane + half]);
    }
  }
  if (local.x == 0u && row < p.rows) {
    known[p.known + 1u + p.pairs + row] = vec2u(bitcast<u32>(lse[p.lse + row]), bitcast<u32>(sums[lane]));
  }
  workgroupBarrier();
  if (lane == 0u && g * 8u < p.rows) {
    for (var i = 1u; i < 8u; i++) { top = max(top, largest[16u * i]); }
    tops[p.tops + g] = max(top, largest[0]);
  }
}
