// Scales of the blocks of an expert's 4-bit weight, as f32.

@group(0) @binding(6) var<storage, read> absmax: array<f32>;
@group(0) @binding(7) var<uniform> codebook: array<vec4f, 4>;

fn blockScale(expert: u32, block: u32) -> f32 {
  return absmax[p.b2 + (expert - p.firstExpert) * p.blocks + block];
}
