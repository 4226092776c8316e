// First stage of a reduction: workgroup g sums elements [g * SPAN, (g + 1) * SPAN) into partial[g]. OP 0 sums, 1 sums
// squares, 2 counts NaN and infinities (by bits: a shader may take every float to be finite). KIND: 0 f32, 1 bf16, 2 f16.

struct Params { x: u32, partial: u32, n: u32, span: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;

var<workgroup> sums: array<f32, 256>;

fn term(at: u32) -> f32 {
  if (KIND == 0u) {
    let bits = x[at];
    if (OP == 2u) { return select(0.0, 1.0, (bits & 0x7f800000u) == 0x7f800000u); }
    let value = bitcast<f32>(bits);
    if (OP == 1u) { return value * value; }
    return value;
  }
  let half = (x[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu;
  let exponent = select(0x7c00u, 0x7f80u, KIND == 1u);
  return select(0.0, 1.0, (half & exponent) == exponent);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let g = group.y * grid.x + group.x;
  let start = g * p.span;
  let end = min(p.n, start + p.span);
  var sum = 0.0;
  for (var i = start + lane; i < end; i += 256u) { sum += term(p.x + i); }
  sums[lane] = sum;
  for (var half = 128u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  if (lane == 0u && start < p.n) { partial[p.partial + g] = sums[0]; }
}
