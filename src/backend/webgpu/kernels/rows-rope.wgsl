// Rows of project-rows.wgsl made by rope.wgsl's formula: heads of own0 elements, pairs (i, i + own1), direction own2. Both
// are multiples of four.

@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read> positions: array<i32>;
@group(0) @binding(5) var<storage, read> cosines: array<vec4f>;
@group(0) @binding(6) var<storage, read> sines: array<vec4f>;

fn prepareRow(row: u32, lane: u32) {}

fn read4(output: u32, row: u32, c: u32) -> vec4f {
  if (row >= p.rows || c >= p.width) { return vec4f(0.0); }
  let half = p.own1;
  let i = c % p.own0;
  let at = sourceAt(0u) + ((row * p.width + c) >> 2u);
  if (i >= 2u * half) { return x[at]; }
  let angle = (u32(positions[sourceAt(1u) + row]) * half + i % half) >> 2u;
  let cosine = cosines[sourceAt(2u) + angle];
  let sine = bitcast<f32>(p.own2) * sines[sourceAt(3u) + angle];
  if (i < half) { return x[at] * cosine - x[at + half / 4u] * sine; }
  return x[at] * cosine + x[at - half / 4u] * sine;
}

fn make4(output: u32, row: u32, c: u32) -> vec4f { return read4(output, row, c); }
