// Parameters of the products of experts. Rows [offsets[e], offsets[e + 1]) are expert e's; INDEX 1: row i of the input is
// a[index[i]]. Experts [firstExpert, lastExpert) are bound.

struct Params {
  a: u32, index: u32, offsets: u32, c: u32, b: u32, b2: u32, b3: u32, b4: u32,
  n: u32, k: u32, ldb: u32, size: u32, firstExpert: u32, lastExpert: u32, scale: f32,
  blockSize: u32, blocks: u32, nestedBlockSize: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> index: array<i32>;
@group(0) @binding(3) var<storage, read> offsets: array<i32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;
