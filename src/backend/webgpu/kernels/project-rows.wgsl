// Prepares operand A of products. Rows of f32, "width" long, are multiplied by adapters' factors, and with PACK become rows of
// f16 for gemm-matrix.wgsl, filled with zeros to a multiple of eight and scaled by a power of two so that each row's largest
// magnitude lies in [2^12, 2^13): gradients of 1e-8 and activations of 1e5 both keep their 11 bits. The packed buffer, in
// words of 32 bits:
//
//   | factor for B: 1 | 3 unused | inverse scale of each row ... padded to 4 | rows, "stride" words each |
//
// Where the rows come from is rows-*.wgsl's to say: they lie in memory, or are made here by what precedes the product. There
// may be two kinds of them (OUTPUTS), packed one behind the other, "outputWords" words each; each kind then has one layer.
// Else PARTS layers share the rows: u [row, r] = scale * sum over c of x[row, c] F[r, c], where F is an adapter's A
// [rank, width] or its B [width, rank] (project-by-*.wgsl); project-into-*.wgsl says where u goes. 8 rows a workgroup, 16
// lanes a row. Words of the parameters hold the offsets of packed, of the factors, of SOURCES that rows-*.wgsl binds, of u.

struct Params {
  offsets0: vec4u, offsets1: vec4u,
  rows: u32, width: u32, pitch: u32, stride: u32, first: u32, outputWords: u32, ldu: u32,
  rank0: u32, rank1: u32, rank2: u32, place0: u32, place1: u32, place2: u32, scale0: f32, scale1: f32, scale2: f32,
  own0: u32, own1: u32, own2: u32, own3: u32, // of rows-*.wgsl
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> packed: array<u32>;
@group(0) @binding(2) var<storage, read> factors: array<Factor>;

const LAYERS = select(PARTS, 1u, PARTS == 0u);

var<workgroup> shares: array<f32, 1024>; // [lane][8 ranks]
var<workgroup> tops: array<u32, 128>;

fn offsetOf(i: u32) -> u32 { return select(p.offsets1[i & 3u], p.offsets0[i & 3u], i < 4u); }

/// Where the i-th operand of rows-*.wgsl starts, and the i-th u.
fn sourceAt(i: u32) -> u32 { return offsetOf(2u + i); }
fn uStart(i: u32) -> u32 { return offsetOf(2u + SOURCES + i); }

fn rankOf(part: u32) -> u32 {
  if (PARTS == 0u) { return 0u; }
  if (part == 2u) { return p.rank2; }
  return select(p.rank1, p.rank0, part == 0u);
}

fn scaleOf(part: u32) -> f32 {
  if (part == 2u) { return p.scale2; }
  return select(p.scale1, p.scale0, part == 0u);
}

fn factorOf(part: u32, at: u32) -> Factor {
  var place = select(p.place1, p.place0, part == 0u);
  if (part == 2u) { place = p.place2; }
  return factors[p.offsets0.y + place + at];
}

/// Sum over the lanes of a row.
fn rowSum(lane: u32, value: f32) -> f32 {
  shares[lane] = value;
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < 16u; i++) { sum += shares[(lane / 16u) * 16u + i]; }
  workgroupBarrier();
  return sum;
}

/// Bits of 2^(12 - exponent of the number with these bits); 1 where that is no normal number.
fn scaleBits(bits: u32) -> u32 {
  let exponent = 266u - (bits >> 23u); // 127 + 12 - (e - 127)
  return select(0x3f800000u, exponent << 23u, bits != 0u && exponent > 0u && exponent < 255u);
}

fn topOf(v: vec4f) -> u32 {
  let bits = bitcast<vec4u>(v) & vec4u(0x7fffffffu);
  return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

/// Rows of one kind, whose largest magnitude among this lane's elements is "top", as f16.
fn packRow(output: u32, row: u32, lane: u32, found: u32) {
  let column0 = (lane % 16u) * 4u;
  tops[lane] = found;
  workgroupBarrier();
  var top = 0u;
  for (var i = 0u; i < 16u; i++) { top = max(top, tops[(lane / 16u) * 16u + i]); }
  workgroupBarrier();
  if (row >= p.rows) { return; }
  let scale = scaleBits(top);
  let start = p.offsets0.x + output * p.outputWords;
  if (column0 == 0u) {
    packed[start + 4u + row] = (254u << 23u) - scale;
    if (row == 0u) { packed[start] = 0x3f800000u; }
  }
  let factor = bitcast<f32>(scale);
  for (var c = column0; c < 2u * p.stride; c += 64u) {
    let v = read4(output, row, c) * factor;
    let to = start + p.first + row * p.stride + c / 2u;
    packed[to] = pack2x16float(v.xy);
    packed[to + 1u] = pack2x16float(v.zw);
  }
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row0 = (group.y * grid.x + group.x) * 8u;
  let row = row0 + lane / 16u;
  let column0 = (lane % 16u) * 4u;
  prepareRow(row, lane);
  for (var output = 0u; output < OUTPUTS; output++) {
    let firstPart = select(0u, output, OUTPUTS > 1u);
    let endPart = select(LAYERS, output + 1u, OUTPUTS > 1u);
    var top = 0u;
    for (var part = firstPart; part < endPart; part++) {
      let rank = rankOf(part);
      // The first sweep over a row makes it, even where there is no factor.
      for (var r0 = 0u; r0 == 0u || r0 < rank; r0 += 8u) {
        let makes = part == firstPart && r0 == 0u;
        var sums = array<vec4f, 2>(); // spelt out: a declaration in a loop is not always cleared again
        for (var c = column0; c < p.width; c += 64u) {
          var x: vec4f;
          if (makes) { x = make4(output, row, c); } else { x = read4(output, row, c); }
          if (makes && PACK == 1u) { top = max(top, topOf(x)); }
          if (PARTS > 0u && r0 < rank) {
            let more = project(part, rank, r0, c, x); // of eight ranks from r0 on
            sums[0] += more.low;
            sums[1] += more.high;
          }
        }
        if (PARTS > 0u && r0 < rank) {
          for (var r = 0u; r < 4u; r++) {
            shares[lane * 8u + r] = sums[0][r];
            shares[lane * 8u + 4u + r] = sums[1][r];
          }
          workgroupBarrier();
          if (lane < 64u) {
            let to = row0 + lane / 8u;
            let r = r0 + lane % 8u;
            var sum = 0.0;
            for (var i = 0u; i < 16u; i++) { sum += shares[((lane / 8u) * 16u + i) * 8u + lane % 8u]; }
            if (to < p.rows && r < rank) { storeU(part, to, r, sum * scaleOf(part)); }
          }
          workgroupBarrier();
        }
      }
    }
    if (PACK == 1u) { packRow(output, row, lane, top); }
  }
}
