// First stage of 4-bit quantisation: each block's largest magnitude, and the factor that its elements are multiplied by.
// Magnitudes compare as integers by their bits. One invocation a block. KIND of x: 0 f32, 1 bf16, 2 f16.

struct Params { x: u32, absmax: u32, inverse: u32, n: u32, blockSize: u32, blocks: u32, smallest: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> absmax: array<u32>;
@group(0) @binding(3) var<storage, read_write> inverse: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let block = (group.y * grid.x + group.x) * 64u + lane;
  if (block >= p.blocks) { return; }
  let start = block * p.blockSize;
  let end = min(p.n, start + p.blockSize);
  var largest = 0u;
  for (var i = start; i < end; i++) { largest = max(largest, elementBits(i) & 0x7fffffffu); }
  let scale = max(largest, p.smallest);
  // The last block, when partial, stores the floored scale.
  absmax[p.absmax + block] = select(scale, largest, end - start == p.blockSize);
  inverse[p.inverse + block] = divideBits(0x3f800000u, scale);
}
