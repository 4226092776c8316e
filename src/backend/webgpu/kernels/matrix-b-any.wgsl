// Eight neighbouring elements of B as f16 for gemm-matrix.wgsl, through b4: any format, any alignment.

struct RawB { words: vec4u }

fn halves(v: vec4f) -> vec2u {
  let w = clamp(v, vec4f(-65504.0), vec4f(65504.0));
  return vec2u(pack2x16float(w.xy), pack2x16float(w.zw));
}

fn fetchB8(row: u32, column: u32, rows: u32, columns: u32, factor: f32) -> RawB {
  let first = halves(b4(row, column, rows, columns) * factor);
  return RawB(vec4u(first, halves(b4(row, column + 4u, rows, columns) * factor)));
}

fn decodeB8(raw: RawB) -> vec4u { return raw.words; }
