// factor = what an update multiplies gradients by, as torch's clip_grad_norm_; -1, which holds updates up, where the squares'
// sum or a loss is not finite, or factor was below 0 already. One workgroup. Finite by bits: a shader may take every float
// to be finite.

struct Params { sumSquares: u32, losses: u32, factor: u32, n: u32, maxNorm: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> sumSquares: array<u32>;
@group(0) @binding(2) var<storage, read> losses: array<u32>;
@group(0) @binding(3) var<storage, read_write> factors: array<f32>;

var<workgroup> bad: atomic<u32>;

fn isBad(bits: u32) -> bool { return (bits & 0x7f800000u) == 0x7f800000u; }

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  for (var i = lane; i < p.n; i += 256u) {
    if (isBad(losses[p.losses + i])) { atomicStore(&bad, 1u); }
  }
  workgroupBarrier();
  if (lane != 0u) { return; }
  let squares = sumSquares[p.sumSquares];
  var factor = 1.0;
  if (isBad(squares) || atomicLoad(&bad) == 1u || factors[p.factor] < 0.0) {
    factor = -1.0;
  } else if (p.maxNorm > 0.0) {
    factor = min(1.0, p.maxNorm / (sqrt(bitcast<f32>(squares)) + 1e-6));
  }
  factors[p.factor] = factor;
}
