// epilogue.wgsl for products whose rows are vectors of four: N a multiple of four, and C and addends aligned. Offsets of these
// count vectors.

@group(0) @binding(2) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(3) var<storage, read> addend: array<vec4f>;

fn emit4(m: u32, n: u32, product: vec4f) {
  if (m >= p.m || n >= p.n) { return; }
  var v = product * p.scale;
  if (DROPOUT == 3u) { v *= mask4(m, n); }
  let at = (m * p.ldc + n) >> 2u;
  if (adds(1u)) { v += addend[p.addend + (n >> 2u)]; }
  if (adds(2u)) { v += addend[p.addend + at]; }
  if (adds(8u)) { v += secondAddend(at); }
  if (adds(4u)) { v += c[p.c + at]; }
  c[p.c + at] = v;
}

/// A slice's partial product, as it is.
fn emitPartial(slice: u32, m: u32, n: u32, v: vec4f) {
  if (m < p.m && n < p.n) { c[p.c + ((slice * p.splitStride + m * p.n + n) >> 2u)] = v; }
}
