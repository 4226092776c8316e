// Eight neighbouring elements of B for gemm-matrix.wgsl where it is f16 and its rows start at multiples of eight. Its offset
// counts groups of eight.

@group(0) @binding(6) var<storage, read> b: array<vec4u>;

struct RawB { words: vec4u }

fn prepareB(lane: u32, lanes: u32) {}

fn fetchB8(row: u32, column: u32, rows: u32, columns: u32, factor: f32) -> RawB {
  if (row >= rows || column >= columns) { return RawB(); }
  return RawB(b[p.b + ((row * p.ldb + column) >> 3u)]);
}

fn decodeB8(raw: RawB) -> vec4u { return raw.words; }
