// Four elements of a row with eight columns of an adapter's B [width, rank], whose rows start at multiples of four.

struct Eight { low: vec4f, high: vec4f }

fn project(part: u32, rank: u32, r0: u32, c: u32, x: vec4f) -> Eight {
  var v = Eight(); // spelt out, for this is called in loops
  for (var i = 0u; i < 4u; i++) {
    if (c + i < p.width) {
      let at = ((c + i) * rank + r0) >> 2u;
      v.low += x[i] * factorOf(part, at);
      if (r0 + 4u < rank) { v.high += x[i] * factorOf(part, at + 1u); }
    }
  }
  return v;
}
