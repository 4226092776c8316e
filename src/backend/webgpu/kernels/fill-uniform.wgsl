// y = uniform in [-bound, bound): (bits / 2^31 - 1) * bound. The product is made exactly in integers and rounded once to
// f32 (then to bf16 when TO is 1, to f16 when TO is 2), which gives the bits of the double-precision formula.
// bound = (boundHigh * 2^32 + boundLow) * 2^exponent.

struct Params {
  y: u32, n: u32, first: u32, stream: u32, seedLow: u32, seedHigh: u32, boundHigh: u32, boundLow: u32, exponent: i32,
  rounds: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

fn uniformBits(bits: u32) -> u32 {
  let negative = bits < 0x80000000u;
  let magnitude = select(bits - 0x80000000u, 0x80000000u - bits, negative);
  let low = magnitude * p.boundLow;
  let carry = mulHigh(magnitude, p.boundLow);
  var w = vec3u(low, carry + magnitude * p.boundHigh, mulHigh(magnitude, p.boundHigh));
  if (w.y < carry) { w.z += 1u; }
  if ((w.x | w.y | w.z) == 0u) { return 0u; }
  // Normalise to 96 bits with the top bit set.
  var top = 95i;
  while (w.z == 0u) { w = vec3u(0u, w.x, w.y); top -= 32; }
  let shift = countLeadingZeros(w.z);
  if (shift > 0u) {
    w.z = (w.z << shift) | (w.y >> (32u - shift));
    w.y = (w.y << shift) | (w.x >> (32u - shift));
    w.x = w.x << shift;
  }
  let biased = top - i32(shift) + p.exponent - 31 + 127;
  if (biased <= 0) { return 0u; }
  let rest = w.z & 0xffu;
  let odd = (w.z >> 8u) & 1u;
  let up = rest > 0x80u || (rest == 0x80u && ((w.y | w.x) != 0u || odd == 1u));
  let value = (u32(biased - 1) << 23u) + (w.z >> 8u) + select(0u, 1u, up);
  return value | select(0u, 0x80000000u, negative);
}

fn sixteen(bits: u32) -> u32 {
  if (TO == 1u) { return bf16FromF32(bits); }
  return f16FromF32(bits);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  // One block of four elements an invocation; "first" (elements, a multiple of 4) is where this window starts.
  let at = ((group.y * grid.x + group.x) * 64u + lane) * 4u;
  if (at >= p.n) { return; }
  let words = philox((p.first + at) >> 2u, p.stream, p.seedLow, p.seedHigh, p.rounds);
  var values: array<u32, 4>;
  for (var i = 0u; i < 4u; i++) { values[i] = uniformBits(words[i]); }
  if (TO == 0u) {
    for (var i = 0u; i < 4u; i++) { if (at + i < p.n) { y[p.y + at + i] = values[i]; } }
  } else {
    for (var i = 0u; i < 4u; i += 2u) {
      if (at + i < p.n) {
        let second = select(0u, sixteen(values[i + 1u]), at + i + 1u < p.n);
        y[p.y + ((at + i) >> 1u)] = sixteen(values[i]) | (second << 16u);
      }
    }
  }
}
