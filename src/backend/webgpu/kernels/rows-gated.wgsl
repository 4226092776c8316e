// Rows of project-rows.wgsl made by gated-activation.wgsl's formula, act(gate) * up, which are written to y besides.

@group(0) @binding(3) var<storage, read> gate: array<vec4f>;
@group(0) @binding(4) var<storage, read> up: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

fn prepareRow(row: u32, lane: u32) {}

fn make4(output: u32, row: u32, c: u32) -> vec4f {
  if (row >= p.rows || c >= p.width) { return vec4f(0.0); }
  let at = (row * p.width + c) >> 2u;
  let g = gate[sourceAt(0u) + at];
  let v = vec4f(activate(g.x).x, activate(g.y).x, activate(g.z).x, activate(g.w).x) * up[sourceAt(1u) + at];
  y[sourceAt(2u) + at] = v;
  return v;
}

/// What this lane wrote.
fn read4(output: u32, row: u32, c: u32) -> vec4f {
  if (row >= p.rows || c >= p.width) { return vec4f(0.0); }
  return y[sourceAt(2u) + ((row * p.width + c) >> 2u)];
}
