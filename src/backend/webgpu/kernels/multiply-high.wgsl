// High word of the product of two 32-bit integers, put together from 16-bit halves: WGSL has no 64-bit integers.

fn mulHigh(a: u32, b: u32) -> u32 {
  let aLow = a & 0xffffu;
  let aHigh = a >> 16u;
  let bLow = b & 0xffffu;
  let bHigh = b >> 16u;
  let mid1 = aHigh * bLow + ((aLow * bLow) >> 16u);
  let mid2 = aLow * bHigh + (mid1 & 0xffffu);
  return aHigh * bHigh + (mid1 >> 16u) + (mid2 >> 16u);
}
