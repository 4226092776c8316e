// The k largest logits of each token, descending, the lower expert first where they are equal, and their weights: softmax
// over all experts, or over the chosen where NORMALIZED is 1. A thread a token.

struct Params { logits: u32, weights: u32, chosen: u32, tokens: u32, experts: u32, k: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> chosen: array<i32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let token = (group.y * grid.x + group.x) * 64u + lane;
  if (token >= p.tokens) { return; }
  let source = p.logits + token * p.experts;
  let own = p.chosen + token * p.k;
  let to = p.weights + token * p.k;
  for (var j = 0u; j < p.k; j++) {
    var best = p.experts;
    var largest = 0.0;
    for (var e = 0u; e < p.experts; e++) {
      var taken = false;
      for (var i = 0u; i < j; i++) { taken = taken || u32(chosen[own + i]) == e; }
      let value = logits[source + e];
      if (!taken && (best == p.experts || value > largest)) {
        best = e;
        largest = value;
      }
    }
    chosen[own + j] = i32(best);
    weights[to + j] = largest;
  }
  let largest = weights[to];
  var total = 0.0;
  if (NORMALIZED == 1u) {
    for (var j = 0u; j < p.k; j++) { total += exp(weights[to + j] - largest); }
  } else {
    for (var e = 0u; e < p.experts; e++) { total += exp(logits[source + e] - largest); }
  }
  for (var j = 0u; j < p.k; j++) { weights[to + j] = exp(weights[to + j] - largest) / total; }
}
