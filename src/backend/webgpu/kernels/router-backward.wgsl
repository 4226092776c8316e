// Gradients of the logits through the weights of the chosen experts; where NORMALIZED is 0 the others' pass through the
// softmax's sum. A thread a token.

struct Params { logits: u32, weights: u32, chosen: u32, dWeights: u32, dLogits: u32, tokens: u32, experts: u32, k: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> chosen: array<i32>;
@group(0) @binding(4) var<storage, read> dWeights: array<f32>;
@group(0) @binding(5) var<storage, read_write> dLogits: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let token = (group.y * grid.x + group.x) * 64u + lane;
  if (token >= p.tokens) { return; }
  let source = p.logits + token * p.experts;
  let to = p.dLogits + token * p.experts;
  let pair = token * p.k;
  var mean = 0.0;
  for (var j = 0u; j < p.k; j++) { mean += weights[p.weights + pair + j] * dWeights[p.dWeights + pair + j]; }
  if (NORMALIZED == 1u) {
    for (var e = 0u; e < p.experts; e++) { dLogits[to + e] = 0.0; }
  } else {
    var largest = logits[source];
    for (var e = 1u; e < p.experts; e++) { largest = max(largest, logits[source + e]); }
    var total = 0.0;
    for (var e = 0u; e < p.experts; e++) { total += exp(logits[source + e] - largest); }
    for (var e = 0u; e < p.experts; e++) { dLogits[to + e] = -mean * exp(logits[source + e] - largest) / total; }
  }
  for (var j = 0u; j < p.k; j++) {
    let w = weights[p.weights + pair + j];
    dLogits[to + u32(chosen[p.chosen + pair + j])] = w * (dWeights[p.dWeights + pair + j] - mean);
  }
}
