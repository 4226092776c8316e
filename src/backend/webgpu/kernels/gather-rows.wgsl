// y[i] = x[index[i]]. Only rows [first, first + count) of x are bound; other indices leave y alone, so that a table
// larger than a binding is gathered window by window. x is f32 here, 16 bits wide (KIND 1 bf16, 2 f16) for embeddings.

struct Params { x: u32, index: u32, y: u32, rows: u32, width: u32, first: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> index: array<i32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn element(at: u32) -> f32 {
  if (KIND == 0u) { return bitcast<f32>(x[at]); }
  let half = (x[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu;
  if (KIND == 1u) { return bitcast<f32>(half << 16u); }
  return bitcast<f32>(f32FromF16(half));
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let origin = u32(index[p.index + row]) - p.first;
  if (origin >= p.count) { return; }
  for (var c = lane; c < p.width; c += 128u) {
    y[p.y + row * p.width + c] = element(p.x + origin * p.width + c);
  }
}
