// The results and the factor of project-rows.wgsl for one layer; its rows of u are ldu long.

@group(0) @binding(3) var<storage, read_write> u0: array<f32>;
@group(0) @binding(4) var<storage, read> f0: array<Factor>;

fn rankOf(part: u32) -> u32 { return p.rank0; }

fn storeU(part: u32, row: u32, r: u32, value: f32) { u0[p.u0 + row * p.ldu + r] = value; }

fn factorOf(part: u32, at: u32) -> Factor { return f0[p.f0 + at]; }
