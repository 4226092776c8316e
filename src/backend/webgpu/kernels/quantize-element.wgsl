// Element i of x as the bits of an f32. KIND: 0 f32, 1 bf16, 2 f16. The including shader declares x and p.x.

fn elementBits(i: u32) -> u32 {
  let at = p.x + i;
  if (KIND == 0u) { return x[at]; }
  let half = (x[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu;
  if (KIND == 1u) { return half << 16u; }
  return f32FromF16(half);
}
