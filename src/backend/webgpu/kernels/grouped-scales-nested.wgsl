// Scales of the blocks of an expert's doubly quantised weight: codebook256[absmax_b] * absmax2[b / nestedBlockSize] +
// the expert's offset.

@group(0) @binding(6) var<storage, read> absmax: array<u32>;
@group(0) @binding(7) var<storage, read> outer: array<f32>;
@group(0) @binding(8) var<storage, read> scaleOffsets: array<f32>;
@group(0) @binding(9) var<uniform> codebook: array<vec4f, 4>;
@group(0) @binding(10) var<uniform> scaleCodebook: array<vec4f, 64>;

fn blockScale(expert: u32, block: u32) -> f32 {
  let local = expert - p.firstExpert;
  let at = p.b2 + local * p.blocks + block;
  let code = (absmax[at >> 2u] >> ((at & 3u) * 8u)) & 255u;
  let outerBlocks = (p.blocks + p.nestedBlockSize - 1u) / p.nestedBlockSize;
  let scale = scaleCodebook[code >> 2u][code & 3u] * outer[p.b3 + local * outerBlocks + block / p.nestedBlockSize];
  return scale + scaleOffsets[p.b4 + expert];
}
