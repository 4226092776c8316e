// Four neighbouring elements of f32 operand A, zero outside its "rows" x "columns". Any alignment.

@group(0) @binding(1) var<storage, read> a: array<f32>;

fn a4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  var v = vec4f(0.0);
  if (row < rows) {
    let at = p.a + row * p.lda + column;
    if (column < columns) { v.x = a[at]; }
    if (column + 1u < columns) { v.y = a[at + 1u]; }
    if (column + 2u < columns) { v.z = a[at + 2u]; }
    if (column + 3u < columns) { v.w = a[at + 3u]; }
  }
  return v;
}
