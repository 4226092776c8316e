// Largest magnitude of n numbers, by bits: workgroup g takes elements [g * span, (g + 1) * span) into partial[g]. Run again
// over the partial results with one workgroup for the whole.

struct Params { x: u32, partial: u32, n: u32, span: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> partial: array<u32>;

var<workgroup> tops: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let g = group.y * grid.x + group.x;
  let start = g * p.span;
  let end = min(p.n, start + p.span);
  var top = 0u;
  for (var i = start + lane; i < end; i += 256u) { top = max(top, x[p.x + i] & 0x7fffffffu); }
  tops[lane] = top;
  for (var half = 128u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { tops[lane] = max(tops[lane], tops[lane + half]); }
  }
  if (lane == 0u && start < p.n) { partial[p.partial + g] = tops[0]; }
}
