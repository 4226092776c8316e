// Four neighbouring elements of a quantised operand B: 4-bit codes (even element in the high nibble) into a codebook of
// 16, times the scale of their block. Dequantised here, on the way to a tile; the matrix never exists in device memory.
// Codes start at element p.firstElement, a multiple of 8, of the whole matrix; scales at its block 0. Goes with scales-*.wgsl.

@group(0) @binding(6) var<storage, read> codes: array<u32>;

fn blockScale(index: u32) -> f32 { return scaleOf(fetchScale((index + p.firstElement) / BLOCK)); }

fn elementOf(index: u32) -> f32 {
  let word = codes[p.b + (index >> 3u)];
  let nibble = (word >> (((index >> 1u) & 3u) * 8u + select(4u, 0u, (index & 1u) == 1u))) & 15u;
  return book[nibble] * blockScale(index);
}

/// Four codes from the low half of "bits", through the codebook.
fn fourOf(bits: u32) -> vec4f {
  return vec4f(book[(bits >> 4u) & 15u], book[bits & 15u], book[(bits >> 12u) & 15u], book[(bits >> 8u) & 15u]);
}

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  if (row >= rows || column >= columns) { return vec4f(0.0); }
  let index = row * p.ldb + column;
  if ((index & 3u) == 0u && column + 3u < columns && BLOCK % 4u == 0u) {
    // Blocks hold a multiple of four elements, so the four share a scale.
    return fourOf(codes[p.b + (index >> 3u)] >> ((index & 4u) * 4u)) * blockScale(index);
  }
  var v = vec4f(0.0);
  v.x = elementOf(index);
  if (column + 1u < columns) { v.y = elementOf(index + 1u); }
  if (column + 2u < columns) { v.z = elementOf(index + 2u); }
  if (column + 3u < columns) { v.w = elementOf(index + 3u); }
  return v;
}
