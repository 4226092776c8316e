// What happens to a product's elements on their way to memory: scale, dropout's mask, an addend by column (flag 1: a bias) or
// by element (flag 2: a residual), a second one by element (flag 8), and what C held before (flag 4).

@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@group(0) @binding(3) var<storage, read> addend: array<f32>;

/// Elements (m, n) .. (m, n + 3) of the product; those outside M x N are dropped.
fn emit4(m: u32, n: u32, product: vec4f) {
  if (m >= p.m || n >= p.n) { return; }
  var v = product * p.scale;
  if (DROPOUT == 3u) { v *= mask4(m, n); }
  for (var i = 0u; i < 4u; i++) {
    if (n + i < p.n) {
      var value = v[i];
      let at = m * p.ldc + n + i;
      if (adds(1u)) { value += addend[p.addend + n + i]; }
      if (adds(2u)) { value += addend[p.addend + at]; }
      if (adds(8u)) { value += secondAddend(at); }
      if (adds(4u)) { value += c[p.c + at]; }
      c[p.c + at] = value;
    }
  }
}

/// A slice's partial product, as it is.
fn emitPartial(slice: u32, m: u32, n: u32, v: vec4f) {
  if (m >= p.m) { return; }
  for (var i = 0u; i < 4u; i++) {
    if (n + i < p.n) { c[p.c + slice * p.splitStride + m * p.n + n + i] = v[i]; }
  }
}
