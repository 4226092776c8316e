// Second stage of a sum over rows: out[c] += sum over groups of partial[g, c], over divisor[c] when DIVIDE is 1.

struct Params { partial: u32, divisor: u32, out: u32, groups: u32, width: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> partial: array<f32>;
@group(0) @binding(2) var<storage, read> divisor: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * 64u + lane;
  if (column >= p.width) { return; }
  var sum = 0.0;
  for (var g = 0u; g < p.groups; g++) { sum += partial[p.partial + g * p.width + column]; }
  if (DIVIDE == 1u) { sum /= divisor[p.divisor + column]; }
  out[p.out + column] += sum;
}
