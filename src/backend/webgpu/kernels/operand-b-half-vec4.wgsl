// Four neighbouring elements of a 16-bit operand B (HALF 1: bf16, 2: f16) whose rows start at multiples of four; its
// offset counts groups of four.

@group(0) @binding(6) var<storage, read> b: array<vec2u>;

fn prepareB(lane: u32, lanes: u32) {}

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  if (row >= rows || column >= columns) { return vec4f(0.0); }
  let words = b[p.b + ((row * p.ldb + column) >> 2u)];
  if (HALF == 1u) {
    return bitcast<vec4f>(vec4u(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
  }
  return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}
