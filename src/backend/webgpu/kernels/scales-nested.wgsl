// Block scales of a doubly quantised matrix: codebook256[absmax_b] * absmax2[b / nestedBlockSize] + nestedOffset.
// Dettmers et al. 2023, section 3. absmax's offset counts bytes.

@group(0) @binding(6) var<storage, read> absmax: array<u32>;
@group(0) @binding(7) var<storage, read> outer: array<f32>;
@group(0) @binding(8) var<uniform> codebook: array<vec4f, 4>;
@group(0) @binding(9) var<uniform> scaleCodebook: array<vec4f, 64>;

fn blockScale(block: u32) -> f32 {
  let at = p.b2 + block;
  let code = (absmax[at >> 2u] >> ((at & 3u) * 8u)) & 255u;
  return scaleCodebook[code >> 2u][code & 3u] * outer[p.b3 + block / p.nestedBlockSize] + p.nestedOffset;
}
