// Parameters of adapter-gradients.wgsl: where operands start (the second half of them as gradients-*.wgsl names them), sizes,
// and of each layer its outputs, rank, the scale of its adapter, and where in "grads" its gradients stand.

struct Params {
  grads: u32, x: u32, du: u32, at3: u32, at4: u32, at5: u32, at6: u32, unused: u32,
  tokens: u32, inputs: u32, ldu: u32, wants: u32, first: u32,
  outputs0: u32, rank0: u32, scale0: f32, dA0: u32, dB0: u32,
  outputs1: u32, rank1: u32, scale1: f32, dA1: u32, dB1: u32,
  outputs2: u32, rank2: u32, scale2: f32, dA2: u32, dB2: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> grads: array<f32>;
