// Philox 4x32-10, bit for bit as util/rng.ts (Salmon et al. 2011). Goes with multiply-high.wgsl.

/// The four words of block "block" in stream (seed, stream); elements 4*block .. 4*block+3. "rounds" is 10: a bound
/// that only the host knows keeps compilers from unrolling it, many times over where masks are made four at a time.
fn philox(block: u32, stream: u32, seedLow: u32, seedHigh: u32, rounds: u32) -> vec4u {
  var c = vec4u(block, 0u, stream, 0u);
  var key = vec2u(seedLow, seedHigh);
  for (var round = 0u; round < rounds; round++) {
    let high0 = mulHigh(0xd2511f53u, c.x);
    let low0 = 0xd2511f53u * c.x;
    let high1 = mulHigh(0xcd9e8d57u, c.z);
    let low1 = 0xcd9e8d57u * c.z;
    c = vec4u(high1 ^ c.y ^ key.x, low1, high0 ^ c.w ^ key.y, low0);
    key += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}
