// Four elements of a row with eight columns of an adapter's B [width, rank]. Any alignment.

struct Eight { low: vec4f, high: vec4f }

fn project(part: u32, rank: u32, r0: u32, c: u32, x: vec4f) -> Eight {
  var v = Eight(); // spelt out, for this is called in loops
  for (var i = 0u; i < 4u; i++) {
    if (c + i < p.width) {
      for (var r = 0u; r < 4u; r++) {
        let at = (c + i) * rank + r0 + r;
        if (r0 + r < rank) { v.low[r] += x[i] * factorOf(part, at); }
        if (r0 + 4u + r < rank) { v.high[r] += x[i] * factorOf(part, at + 4u); }
      }
    }
  }
  return v;
}
