// Four neighbouring elements of f32 operand A whose rows start at multiples of four; its offset counts vectors.

@group(0) @binding(1) var<storage, read> a: array<vec4f>;

fn a4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  if (row < rows && column < columns) { return a[p.a + ((row * p.lda + column) >> 2u)]; }
  return vec4f(0.0);
}
