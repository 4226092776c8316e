// The power of two that brings a number with these bits to [2^4, 2^5), so that gradients far below f16's range keep their
// digits and products with them stay within it; 1 where there is none.

fn halfFactor(bits: u32) -> f32 {
  let exponent = 258u - (bits >> 23u); // 127 + 4 - (e - 127)
  return bitcast<f32>(select(0x3f800000u, exponent << 23u, bits != 0u && exponent > 3u && exponent < 255u));
}
