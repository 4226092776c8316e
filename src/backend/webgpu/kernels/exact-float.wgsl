// f32 products and quotients in integers, rounded to nearest even, subnormals included: codes that must be bit for bit those
// of the CPU cannot rely on a GPU's own arithmetic, which may flush subnormals and round quotients loosely. Numbers by
// their bits, finite; results are taken not to overflow. Goes with multiply-high.wgsl.

struct Split { mantissa: u32, exponent: i32 } // mantissa has 24 bits, the top one set

fn splitBits(bits: u32) -> Split {
  let exponent = i32((bits >> 23u) & 255u);
  let fraction = bits & 0x7fffffu;
  if (exponent > 0) { return Split(fraction | 0x800000u, exponent); }
  let shift = countLeadingZeros(fraction) - 8u;
  return Split(fraction << shift, 1 - i32(shift));
}

/// The f32 nearest to top * 2^(exponent - 127 - 31), top's highest bit set; "more" says that the true value is a bit larger.
fn roundBits(sign: u32, exponent: i32, top: u32, more: bool) -> u32 {
  let shift = 8u + u32(max(0, 1 - exponent));
  if (shift > 32u) { return sign; }
  var mantissa = 0u;
  var rest = top;
  if (shift < 32u) {
    mantissa = top >> shift;
    rest = top & ((1u << shift) - 1u);
  }
  let half = 1u << (shift - 1u);
  let up = rest > half || (rest == half && (more || (mantissa & 1u) == 1u));
  return sign | ((u32(max(0, exponent - 1)) << 23u) + mantissa + select(0u, 1u, up));
}

fn multiplyBits(a: u32, b: u32) -> u32 {
  let sign = (a ^ b) & 0x80000000u;
  if ((a & 0x7fffffffu) == 0u || (b & 0x7fffffffu) == 0u) { return sign; }
  let x = splitBits(a);
  let y = splitBits(b);
  // 48 bits, of which the top or the next is set.
  var high = mulHigh(x.mantissa, y.mantissa);
  var low = x.mantissa * y.mantissa;
  var exponent = x.exponent + y.exponent - 126;
  if ((high & 0x8000u) == 0u) {
    high = (high << 1u) | (low >> 31u);
    low = low << 1u;
    exponent -= 1;
  }
  return roundBits(sign, exponent, (high << 16u) | (low >> 16u), (low & 0xffffu) != 0u);
}

/// b is not zero.
fn divideBits(a: u32, b: u32) -> u32 {
  let sign = (a ^ b) & 0x80000000u;
  if ((a & 0x7fffffffu) == 0u) { return sign; }
  let x = splitBits(a);
  let y = splitBits(b);
  var exponent = x.exponent - y.exponent + 127;
  var rest = x.mantissa;
  if (rest < y.mantissa) {
    rest = rest << 1u;
    exponent -= 1;
  }
  var quotient = 0u;
  for (var i = 0u; i < 25u; i++) {
    quotient = quotient << 1u;
    if (rest >= y.mantissa) {
      rest -= y.mantissa;
      quotient |= 1u;
    }
    rest = rest << 1u;
  }
  return roundBits(sign, exponent, quotient << 7u, rest != 0u);
}

/// Integers in the order of the floats that have these bits; both zeros are 0.
fn orderOf(bits: u32) -> i32 {
  let magnitude = i32(bits & 0x7fffffffu);
  return select(magnitude, -magnitude, (bits & 0x80000000u) != 0u);
}
