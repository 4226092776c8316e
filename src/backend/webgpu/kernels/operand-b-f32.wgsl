// Four neighbouring elements of f32 operand B, zero outside its "rows" x "columns". Any alignment.

@group(0) @binding(6) var<storage, read> b: array<f32>;

fn prepareB(lane: u32, lanes: u32) {}

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  var v = vec4f(0.0);
  if (row < rows) {
    let at = p.b + row * p.ldb + column;
    if (column < columns) { v.x = b[at]; }
    if (column + 1u < columns) { v.y = b[at + 1u]; }
    if (column + 2u < columns) { v.z = b[at + 2u]; }
    if (column + 3u < columns) { v.w = b[at + 3u]; }
  }
  return v;
}
