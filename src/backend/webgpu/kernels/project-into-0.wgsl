// project-rows.wgsl without a factor.

struct Eight { low: vec4f, high: vec4f }

fn project(part: u32, rank: u32, r0: u32, c: u32, x: vec4f) -> Eight { return Eight(); }

fn storeU(part: u32, row: u32, r: u32, value: f32) {}
