// Four neighbouring elements of f32 operand B whose rows start at multiples of four; its offset counts vectors.

@group(0) @binding(6) var<storage, read> b: array<vec4f>;

fn prepareB(lane: u32, lanes: u32) {}

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  if (row < rows && column < columns) { return b[p.b + ((row * p.ldb + column) >> 2u)]; }
  return vec4f(0.0);
}
