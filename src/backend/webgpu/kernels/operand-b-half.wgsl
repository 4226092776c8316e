// Four neighbouring elements of a 16-bit operand B (HALF 1: bf16, 2: f16), any alignment; its offset counts elements.

@group(0) @binding(6) var<storage, read> b: array<u32>;

fn halfAt(at: u32) -> f32 {
  let word = b[at >> 1u];
  let half = select(word & 0xffffu, word >> 16u, (at & 1u) == 1u);
  if (HALF == 1u) { return bitcast<f32>(half << 16u); }
  return unpack2x16float(half).x;
}

fn prepareB(lane: u32, lanes: u32) {}

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  var v = vec4f(0.0);
  if (row < rows) {
    let at = p.b + row * p.ldb + column;
    if (column < columns) { v.x = halfAt(at); }
    if (column + 1u < columns) { v.y = halfAt(at + 1u); }
    if (column + 2u < columns) { v.z = halfAt(at + 2u); }
    if (column + 3u < columns) { v.w = halfAt(at + 3u); }
  }
  return v;
}
