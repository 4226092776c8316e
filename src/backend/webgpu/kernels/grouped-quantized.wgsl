// Element (row, column) of an expert's 4-bit weight: every expert begins with a byte of codes and a block of its own.
// Scales are f32, or of NESTED 1 codes themselves; codes, scales and outer scales count from the first expert bound.

@group(0) @binding(5) var<storage, read> codes: array<u32>;

fn weight(expert: u32, row: u32, column: u32) -> f32 {
  let element = row * p.ldb + column;
  let byte = p.b + (expert - p.firstExpert) * ((p.size + 1u) / 2u) + (element >> 1u);
  let pair = codes[byte >> 2u] >> ((byte & 3u) * 8u);
  let code = select(pair >> 4u, pair, (element & 1u) == 1u) & 15u;
  return codebook[code >> 2u][code & 3u] * blockScale(expert, element / p.blockSize);
}
