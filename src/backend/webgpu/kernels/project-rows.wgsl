// Prepares operand A of products. Rows of f32 (through a4), "width" long, are multiplied by an adapter's factor, and with PACK
// become rows of f16 for gemm-matrix.wgsl, filled with zeros to a multiple of eight and scaled by a power of two so that each
// row's largest magnitude lies in [2^12, 2^13): gradients of 1e-8 and activations of 1e5 both keep their 11 bits. The packed
// buffer, in words of 32 bits:
//
//   | factor for B: 1 | 3 unused | inverse scale of each row ... padded to 4 | rows, "stride" words each |
//
// PARTS layers share the rows (project-parts-*.wgsl): u [row, r] = scale * sum over c of x[row, c] F[r, c], where F is an
// adapter's A [rank, width] or its B [width, rank] (project-by-*.wgsl). 8 rows a workgroup, 16 lanes a row.

struct Params {
  a: u32, packed: u32, u0: u32, f0: u32, u1: u32, f1: u32, u2: u32, f2: u32,
  rows: u32, width: u32, lda: u32, stride: u32, first: u32, ldu: u32, scale: f32, rank0: u32, rank1: u32, rank2: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read_write> packed: array<u32>;

var<workgroup> shares: array<f32, 1024>; // [lane][8 ranks]
var<workgroup> tops: array<u32, 128>;

/// Bits of 2^(12 - exponent of the number with these bits); 1 where that is no normal number.
fn scaleBits(bits: u32) -> u32 {
  let exponent = 266u - (bits >> 23u); // 127 + 12 - (e - 127)
  return select(0x3f800000u, exponent << 23u, bits != 0u && exponent > 0u && exponent < 255u);
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = (group.y * grid.x + group.x) * 8u + lane / 16u;
  let column0 = (lane % 16u) * 4u;
  for (var part = 0u; part < PARTS; part++) {
    let rank = rankOf(part);
    for (var r0 = 0u; r0 < rank; r0 += 8u) {
      var sums = array<vec4f, 2>(); // spelt out: a declaration in a loop is not always cleared again
      for (var c = column0; c < p.width; c += 64u) {
        let x = a4(row, c, p.rows, p.width);
        let more = project(part, rank, r0, c, x); // of eight ranks from r0 on
        sums[0] += more.low;
        sums[1] += more.high;
      }
      for (var r = 0u; r < 4u; r++) {
        shares[lane * 8u + r] = sums[0][r];
        shares[lane * 8u + 4u + r] = sums[1][r];
      }
      workgroupBarrier();
      if (lane < 64u) {
        let to = (group.y * grid.x + group.x) * 8u + lane / 8u;
        let r = r0 + lane % 8u;
        var sum = 0.0;
        for (var i = 0u; i < 16u; i++) { sum += shares[((lane / 8u) * 16u + i) * 8u + lane % 8u]; }
        if (to < p.rows && r < rank) { storeU(part, to, r, sum * p.scale); }
      }
      workgroupBarrier();
    }
  }
  if (PACK == 1u) {
    var top = 0u;
    for (var c = column0; c < p.width; c += 64u) {
      let bits = bitcast<vec4u>(a4(row, c, p.rows, p.width)) & vec4u(0x7fffffffu);
      top = max(top, max(max(bits.x, bits.y), max(bits.z, bits.w)));
    }
    tops[lane] = top;
    workgroupBarrier();
    for (var i = 0u; i < 16u; i++) { top = max(top, tops[(lane / 16u) * 16u + i]); }
    if (row >= p.rows) { return; }
    let scale = scaleBits(top);
    if (column0 == 0u) {
      packed[p.packed + 4u + row] = (254u << 23u) - scale;
      if (row == 0u) { packed[p.packed] = 0x3f800000u; }
    }
    let factor = bitcast<f32>(scale);
    for (var c = column0; c < 2u * p.stride; c += 64u) {
      let v = a4(row, c, p.rows, p.width) * factor;
      let to = p.packed + p.first + row * p.stride + c / 2u;
      packed[to] = pack2x16float(v.xy);
      packed[to + 1u] = pack2x16float(v.zw);
    }
  }
}
