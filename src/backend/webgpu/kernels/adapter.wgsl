// An adapter's step of a product: further elements along K, u [M, rank] on A's side and F on B's, both f32.
// F is an adapter's B [N, rank] in B_MODE 0, and its A [rank, N] in B_MODE 1.

@group(0) @binding(4) var<storage, read> u: array<f32>;
@group(0) @binding(5) var<storage, read> factor: array<f32>;

fn uAt(m: u32, r: u32) -> f32 {
  if (m >= p.m || r >= p.rank) { return 0.0; }
  return u[p.second + m * p.ldu + r] * p.adapterScale;
}

fn factorAt(n: u32, r: u32) -> f32 {
  if (n >= p.n || r >= p.rank) { return 0.0; }
  return factor[p.factor + select(r * p.ldc + n, n * p.rank + r, B_MODE == 0u)];
}

/// Stands where no-adapter.wgsl has a second addend: a product with an adapter takes one.
fn secondAddend(at: u32) -> Addend { return Addend(0.0); }
