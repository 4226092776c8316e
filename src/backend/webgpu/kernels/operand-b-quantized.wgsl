// Four neighbouring elements of a quantised operand B: 4-bit codes (even element in the high nibble) into a codebook of
// 16, times the scale of their block. Dequantised here, on the way to a tile; the matrix never exists in device memory.
// Codes start at element p.firstElement, a multiple of 8, of the whole matrix; scales at its block 0.

@group(0) @binding(5) var<storage, read> codes: array<u32>;

fn elementOf(index: u32) -> f32 {
  let word = codes[p.b + (index >> 3u)];
  let nibble = (word >> (((index >> 1u) & 3u) * 8u + select(4u, 0u, (index & 1u) == 1u))) & 15u;
  return codebook[nibble >> 2u][nibble & 3u] * blockScale((index + p.firstElement) / p.blockSize);
}

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  if (row >= rows || column >= columns) { return vec4f(0.0); }
  let index = row * p.ldb + column;
  if ((index & 3u) == 0u && column + 3u < columns) {
    // Blocks hold a multiple of four elements, so the four share a scale.
    let bits = codes[p.b + (index >> 3u)] >> ((index & 4u) * 4u);
    let n = vec4u(bits >> 4u, bits, bits >> 12u, bits >> 8u) & vec4u(15u);
    let values = vec4f(
      codebook[n.x >> 2u][n.x & 3u], codebook[n.y >> 2u][n.y & 3u],
      codebook[n.z >> 2u][n.z & 3u], codebook[n.w >> 2u][n.w & 3u]);
    return values * blockScale((index + p.firstElement) / p.blockSize);
  }
  var v = vec4f(0.0);
  v.x = elementOf(index);
  if (column + 1u < columns) { v.y = elementOf(index + 1u); }
  if (column + 2u < columns) { v.z = elementOf(index + 2u); }
  if (column + 3u < columns) { v.w = elementOf(index + 3u); }
  return v;
}
