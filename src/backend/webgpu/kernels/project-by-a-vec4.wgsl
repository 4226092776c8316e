// Four elements of a row with eight rows of an adapter's A [rank, width], whose rows start at multiples of four.

struct Eight { low: vec4f, high: vec4f }

fn project(part: u32, rank: u32, r0: u32, c: u32, x: vec4f) -> Eight {
  var v = Eight(); // spelt out, for this is called in loops
  if (c >= p.width) { return v; }
  for (var i = 0u; i < 4u; i++) {
    if (r0 + i < rank) { v.low[i] = dot(x, factorOf(part, ((r0 + i) * p.width + c) >> 2u)); }
    if (r0 + 4u + i < rank) { v.high[i] = dot(x, factorOf(part, ((r0 + 4u + i) * p.width + c) >> 2u)); }
  }
  return v;
}
