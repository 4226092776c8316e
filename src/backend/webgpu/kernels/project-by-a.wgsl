// Four elements of a row with eight rows of an adapter's A [rank, width]. Any alignment.

struct Eight { low: vec4f, high: vec4f }

fn dotWithRow(part: u32, rank: u32, r: u32, c: u32, x: vec4f) -> f32 {
  var sum = 0.0;
  if (r >= rank) { return sum; }
  for (var i = 0u; i < 4u; i++) {
    if (c + i < p.width) { sum += x[i] * factorOf(part, r * p.width + c + i); }
  }
  return sum;
}

fn project(part: u32, rank: u32, r0: u32, c: u32, x: vec4f) -> Eight {
  var v = Eight(); // spelt out, for this is called in loops
  for (var i = 0u; i < 4u; i++) {
    v.low[i] = dotWithRow(part, rank, r0 + i, c, x);
    v.high[i] = dotWithRow(part, rank, r0 + 4u + i, c, x);
  }
  return v;
}
