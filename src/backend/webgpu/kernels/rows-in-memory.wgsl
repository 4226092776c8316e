// Rows of project-rows.wgsl that lie in memory, row t of them "pitch" elements after row t - 1. Any alignment.

@group(0) @binding(3) var<storage, read> a: array<f32>;

fn prepareRow(row: u32, lane: u32) {}

fn read4(output: u32, row: u32, c: u32) -> vec4f {
  var v = vec4f(0.0);
  if (row < p.rows) {
    let at = sourceAt(0u) + row * p.pitch + c;
    if (c < p.width) { v.x = a[at]; }
    if (c + 1u < p.width) { v.y = a[at + 1u]; }
    if (c + 2u < p.width) { v.z = a[at + 2u]; }
    if (c + 3u < p.width) { v.w = a[at + 3u]; }
  }
  return v;
}

fn make4(output: u32, row: u32, c: u32) -> vec4f { return read4(output, row, c); }
