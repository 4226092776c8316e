// dTable[ids[t]] += dy[t], without atomics and in the order of t, so the sum is the same in every run: the workgroup of a
// token works only when it is the first with its id, and then adds every token with that id.

struct Params { ids: u32, dy: u32, table: u32, tokens: u32, width: u32, first: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> table: array<f32>;

var<workgroup> earlier: atomic<u32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let token = group.y * grid.x + group.x;
  if (token >= p.tokens) { return; }
  let id = ids[p.ids + token];
  let row = u32(id) - p.first;
  if (row >= p.count) { return; }
  for (var t = lane; t < token; t += 128u) {
    if (ids[p.ids + t] == id) { atomicStore(&earlier, 1u); }
  }
  workgroupBarrier();
  if (atomicLoad(&earlier) != 0u) { return; }
  for (var c = lane; c < p.width; c += 128u) {
    var sum = 0.0;
    for (var t = token; t < p.tokens; t++) {
      if (ids[p.ids + t] == id) { sum += dy[p.dy + t * p.width + c]; }
    }
    table[p.table + row * p.width + c] += sum;
  }
}
