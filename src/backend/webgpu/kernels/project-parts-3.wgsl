// The results and factors of project-rows.wgsl for three layers that share its rows, each with a u of its own.

@group(0) @binding(3) var<storage, read_write> u0: array<f32>;
@group(0) @binding(4) var<storage, read> f0: array<Factor>;
@group(0) @binding(5) var<storage, read_write> u1: array<f32>;
@group(0) @binding(6) var<storage, read> f1: array<Factor>;
@group(0) @binding(7) var<storage, read_write> u2: array<f32>;
@group(0) @binding(8) var<storage, read> f2: array<Factor>;

fn rankOf(part: u32) -> u32 {
  if (part == 2u) { return p.rank2; }
  return select(p.rank1, p.rank0, part == 0u);
}

fn storeU(part: u32, row: u32, r: u32, value: f32) {
  if (part == 0u) {
    u0[p.u0 + row * p.rank0 + r] = value;
  } else if (part == 1u) {
    u1[p.u1 + row * p.rank1 + r] = value;
  } else {
    u2[p.u2 + row * p.rank2 + r] = value;
  }
}

fn factorOf(part: u32, at: u32) -> Factor {
  if (part == 0u) { return f0[p.f0 + at]; }
  if (part == 1u) { return f1[p.f1 + at]; }
  return f2[p.f2 + at];
}
