// The results of project-rows.wgsl in one buffer with rows of ldu: one layer's columns, or those of two side by side.

@group(0) @binding(next) var<storage, read_write> u0: array<f32>;

fn storeU(part: u32, row: u32, r: u32, value: f32) {
  u0[uStart(0u) + row * p.ldu + select(p.rank0, 0u, part == 0u) + r] = value;
}
