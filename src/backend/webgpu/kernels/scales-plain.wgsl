// Block scales of a quantised matrix, stored as f32. Codebooks lie in workgroup memory, for lanes look up different entries.

@group(0) @binding(7) var<storage, read> absmax: array<f32>;
@group(0) @binding(8) var<uniform> codebook: array<vec4f, 4>;

var<workgroup> book: array<f32, 16>;

/// Fills the tables; a barrier comes before their first use.
fn prepareB(lane: u32, lanes: u32) {
  for (var i = lane; i < 16u; i += lanes) { book[i] = codebook[i >> 2u][i & 3u]; }
}

/// What there is of a block's scale before it is worked out, so that loads can run ahead of their use.
struct RawScale { value: f32 }

fn fetchScale(block: u32) -> RawScale { return RawScale(absmax[p.b2 + block]); }

fn scaleOf(raw: RawScale) -> f32 { return raw.value; }
