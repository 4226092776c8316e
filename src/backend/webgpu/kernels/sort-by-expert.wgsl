// Lines up pairs of token and expert by expert, in the order of tokens. One workgroup: a thread looks for the pairs of its
// own experts, so that the order is the same on every device.

struct Params { chosen: u32, offsets: u32, slots: u32, tokens: u32, pairs: u32, experts: u32, k: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chosen: array<i32>;
@group(0) @binding(2) var<storage, read_write> offsets: array<i32>;
@group(0) @binding(3) var<storage, read_write> slots: array<i32>;
@group(0) @binding(4) var<storage, read_write> tokens: array<i32>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  for (var e = lane; e < p.experts; e += 256u) {
    var count = 0;
    for (var i = 0u; i < p.pairs; i++) { count += select(0, 1, u32(chosen[p.chosen + i]) == e); }
    offsets[p.offsets + e + 1u] = count;
  }
  storageBarrier();
  if (lane == 0u) {
    var sum = 0;
    offsets[p.offsets] = 0;
    for (var e = 0u; e < p.experts; e++) {
      sum += offsets[p.offsets + e + 1u];
      offsets[p.offsets + e + 1u] = sum;
    }
  }
  storageBarrier();
  for (var e = lane; e < p.experts; e += 256u) {
    var slot = offsets[p.offsets + e];
    for (var i = 0u; i < p.pairs; i++) {
      if (u32(chosen[p.chosen + i]) != e) { continue; }
      slots[p.slots + i] = slot;
      tokens[p.tokens + u32(slot)] = i32(i / p.k);
      slot++;
    }
  }
}
