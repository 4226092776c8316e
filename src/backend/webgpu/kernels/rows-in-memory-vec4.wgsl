// Rows of project-rows.wgsl that lie in memory and start at multiples of four, "pitch" elements apart.

@group(0) @binding(3) var<storage, read> a: array<vec4f>;

fn prepareRow(row: u32, lane: u32) {}

fn read4(output: u32, row: u32, c: u32) -> vec4f {
  if (row < p.rows && c < p.width) { return a[sourceAt(0u) + ((row * p.pitch + c) >> 2u)]; }
  return vec4f(0.0);
}

fn make4(output: u32, row: u32, c: u32) -> vec4f { return read4(output, row, c); }
