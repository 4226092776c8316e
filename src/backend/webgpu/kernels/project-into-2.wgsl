// The results of project-rows.wgsl for two layers that share its rows, each with a u of its own.

@group(0) @binding(next) var<storage, read_write> u0: array<f32>;
@group(0) @binding(next) var<storage, read_write> u1: array<f32>;

fn storeU(part: u32, row: u32, r: u32, value: f32) {
  if (part == 0u) { u0[uStart(0u) + row * p.rank0 + r] = value; } else { u1[uStart(1u) + row * p.rank1 + r] = value; }
}
