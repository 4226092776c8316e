// Block scales of a doubly quantised matrix: codebook256[absmax_b] * absmax2[b / NESTED_BLOCK] + nestedOffset.
// Dettmers et al. 2023, section 3. absmax's offset counts bytes. Otherwise as scales-plain.wgsl.

@group(0) @binding(7) var<storage, read> absmax: array<u32>;
@group(0) @binding(8) var<storage, read> outer: array<f32>;
@group(0) @binding(9) var<uniform> codebook: array<vec4f, 4>;
@group(0) @binding(10) var<uniform> scaleCodebook: array<vec4f, 64>;

var<workgroup> book: array<f32, 16>;
var<workgroup> scaleBook: array<f32, 256>;

fn prepareB(lane: u32, lanes: u32) {
  for (var i = lane; i < 16u; i += lanes) { book[i] = codebook[i >> 2u][i & 3u]; }
  for (var i = lane; i < 256u; i += lanes) { scaleBook[i] = scaleCodebook[i >> 2u][i & 3u]; }
}

struct RawScale { code: u32, outer: f32 }

fn fetchScale(block: u32) -> RawScale {
  let at = p.b2 + block;
  return RawScale((absmax[at >> 2u] >> ((at & 3u) * 8u)) & 255u, outer[p.b3 + block / NESTED_BLOCK]);
}

fn scaleOf(raw: RawScale) -> f32 { return scaleBook[raw.code] * raw.outer + p.nestedOffset; }
