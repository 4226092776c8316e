// Conversions between the bits of f32, bf16, f16 and f64 in integer arithmetic: nearest, ties to even, subnormals,
// infinities and NaN exactly as tensor/dtype.ts, whatever the device does with such numbers itself.

fn bf16FromF32(bits: u32) -> u32 {
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn f16FromF32(bits: u32) -> u32 {
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude >= 0x477ff000u) { return sign | 0x7c00u; }
  if (magnitude < 0x38800000u) {
    // Subnormal half: the mantissa in units of 2^-24.
    let shift = 126u - (magnitude >> 23u);
    if (shift > 25u) { return sign; }
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let half = 1u << (shift - 1u);
    return sign | ((mantissa + half - 1u + ((mantissa >> shift) & 1u)) >> shift);
  }
  return sign | ((magnitude + 0xfffu + ((magnitude >> 13u) & 1u) - 0x38000000u) >> 13u);
}

fn f32FromF16(bits: u32) -> u32 {
  let sign = (bits & 0x8000u) << 16u;
  let exponent = (bits >> 10u) & 31u;
  let mantissa = bits & 0x3ffu;
  if (exponent == 31u) { return sign | 0x7f800000u | (mantissa << 13u); }
  if (exponent > 0u) { return sign | ((exponent + 112u) << 23u) | (mantissa << 13u); }
  if (mantissa == 0u) { return sign; }
  let top = firstLeadingBit(mantissa);
  return sign | ((top + 103u) << 23u) | ((mantissa << (23u - top)) & 0x7fffffu);
}

fn f32FromF64(low: u32, high: u32) -> u32 {
  let sign = high & 0x80000000u;
  let exponent = i32((high >> 20u) & 0x7ffu);
  let top = ((high & 0xfffffu) << 3u) | (low >> 29u);
  let rest = low & 0x1fffffffu;
  if (exponent == 0x7ff) {
    return sign | 0x7f800000u | select(0u, 0x400000u, (top | rest) != 0u);
  }
  let scale = exponent - 896;
  if (scale >= 255) { return sign | 0x7f800000u; }
  if (scale > 0) {
    let up = rest > 0x10000000u || (rest == 0x10000000u && (top & 1u) == 1u);
    return sign | (((u32(scale) << 23u) | top) + select(0u, 1u, up));
  }
  let shift = u32(1 - scale);
  if (shift > 24u || exponent == 0) { return sign; }
  let mantissa = top | 0x800000u;
  let half = 1u << (shift - 1u);
  let lost = mantissa & ((1u << shift) - 1u);
  let up = lost > half || (lost == half && (rest != 0u || ((mantissa >> shift) & 1u) == 1u));
  return sign | ((mantissa >> shift) + select(0u, 1u, up));
}
