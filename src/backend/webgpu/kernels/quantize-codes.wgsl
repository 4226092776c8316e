// Second stage of 4-bit quantisation: one invocation makes one word of codes, eight elements. An element's code is that of
// the nearest codebook value: codeByRank[number of thresholds below x / absmax], quant/codebook.ts. In whole blocks x is
// multiplied by the rounded inverse, in a partial last block divided, as bitsandbytes does.

struct Params {
  x: u32, absmax: u32, inverse: u32, codes: u32,
  n: u32, blockSize: u32, codeByRankLow: u32, codeByRankHigh: u32, // eight codes of four bits each
  thresholds: array<vec4u, 4>, // 15, by their bits, and one never passed
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> absmax: array<u32>;
@group(0) @binding(3) var<storage, read> inverse: array<u32>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;

fn codeOf(bits: u32) -> u32 {
  let value = orderOf(bits);
  var rank = 0u;
  for (var i = 0u; i < 15u; i++) { rank += select(0u, 1u, value > orderOf(p.thresholds[i >> 2u][i & 3u])); }
  return (select(p.codeByRankLow, p.codeByRankHigh, rank >= 8u) >> ((rank & 7u) * 4u)) & 15u;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let word = (group.y * grid.x + group.x) * 64u + lane;
  let first = word * 8u;
  if (first >= p.n) { return; }
  var packed = 0u;
  for (var i = 0u; i < 8u; i++) {
    let at = first + i;
    var code = 0u;
    if (at < p.n) {
      let block = at / p.blockSize;
      let bits = elementBits(at);
      if ((block + 1u) * p.blockSize <= p.n) {
        code = codeOf(multiplyBits(bits, inverse[p.inverse + block]));
      } else {
        code = codeOf(divideBits(bits, absmax[p.absmax + block]));
      }
    } else if (at == p.n && (at & 1u) == 1u) {
      code = codeOf(0u); // the padding nibble of an odd count encodes zero
    }
    packed |= code << ((i >> 1u) * 8u + select(4u, 0u, (i & 1u) == 1u));
  }
  codes[p.codes + word] = packed;
}
