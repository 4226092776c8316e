// Two kinds of rows of project-rows.wgsl, made by gated-activation-backward.wgsl's formulas: the gradients of gate and of up.

@group(0) @binding(3) var<storage, read> gate: array<vec4f>;
@group(0) @binding(4) var<storage, read> up: array<vec4f>;
@group(0) @binding(5) var<storage, read> dy: array<vec4f>;

fn prepareRow(row: u32, lane: u32) {}

fn read4(output: u32, row: u32, c: u32) -> vec4f {
  if (row >= p.rows || c >= p.width) { return vec4f(0.0); }
  let at = (row * p.width + c) >> 2u;
  let g = gate[sourceAt(0u) + at];
  let upstream = dy[sourceAt(2u) + at];
  let a = activate(g.x);
  let b = activate(g.y);
  let d = activate(g.z);
  let e = activate(g.w);
  if (output == 1u) { return upstream * vec4f(a.x, b.x, d.x, e.x); }
  return upstream * up[sourceAt(1u) + at] * vec4f(a.y, b.y, d.y, e.y);
}

fn make4(output: u32, row: u32, c: u32) -> vec4f { return read4(output, row, c); }
