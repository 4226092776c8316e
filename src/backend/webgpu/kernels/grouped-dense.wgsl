// Element (row, column) of an expert's dense weight; KIND 0 f32, 1 bf16, 2 f16. Experts count from the first that is bound.

@group(0) @binding(5) var<storage, read> b: array<u32>;

fn weight(expert: u32, row: u32, column: u32) -> f32 {
  let at = p.b + (expert - p.firstExpert) * p.size + row * p.ldb + column;
  if (KIND == 0u) { return bitcast<f32>(b[at]); }
  let word = b[at >> 1u];
  let half = select(word & 0xffffu, word >> 16u, (at & 1u) == 1u);
  if (KIND == 1u) { return bitcast<f32>(half << 16u); }
  return unpack2x16float(half).x;
}
