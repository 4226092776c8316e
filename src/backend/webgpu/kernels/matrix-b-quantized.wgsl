// Eight neighbouring elements of a quantised B for gemm-matrix.wgsl where rows start at multiples of eight and blocks hold as
// many: one word of codes and one scale. What is loaded is worked out only at its use (decodeB8), so that loads run ahead.

struct RawB { word: u32, scale: RawScale }

/// Beyond its rows and columns some finite numbers: A is zero there, or C drops them.
fn fetchB8(row: u32, column: u32, rows: u32, columns: u32, factor: f32) -> RawB {
  if (row >= rows || column >= columns) { return RawB(); }
  let index = row * p.ldb + column;
  return RawB(codes[p.b + (index >> 3u)], fetchScale((index + p.firstElement) / BLOCK));
}

fn decodeB8(raw: RawB) -> vec4u {
  let scale = scaleOf(raw.scale);
  let low = fourOf(raw.word) * scale;
  let high = fourOf(raw.word >> 16u) * scale;
  return vec4u(pack2x16float(low.xy), pack2x16float(low.zw), pack2x16float(high.xy), pack2x16float(high.zw));
}
