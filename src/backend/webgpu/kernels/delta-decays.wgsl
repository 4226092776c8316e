// dg of a token is the sum of what it and the later tokens of its segment left in dg; a lane is a segment's head. A
// segment's first token has nothing that could decay.

struct Params { segments: u32, dg: u32, vHeads: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> segments: array<i32>;
@group(0) @binding(2) var<storage, read_write> dg: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.x * 64u + lane;
  if (head >= p.vHeads) { return; }
  let start = u32(segments[p.segments + 4u * group.y]);
  let length = u32(segments[p.segments + 4u * group.y + 1u]);
  // The sum of many terms that cancel, with its rounding errors put back (Kahan).
  var sum = 0.0;
  var lost = 0.0;
  for (var back = 1u; back <= length; back++) {
    let at = p.dg + (start + length - back) * p.vHeads + head;
    let term = dg[at] - lost;
    let next = sum + term;
    lost = (next - sum) - term;
    sum = next;
    dg[at] = select(sum, 0.0, back == length);
  }
}
