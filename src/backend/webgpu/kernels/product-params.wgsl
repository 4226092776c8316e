// Parameters of every matrix product C [M, N] = A B: where operands start, their row lengths (ld*), the epilogue, an
// adapter's step and the dropout mask. Used by gemm.wgsl, gemm-matrix.wgsl, gemv.wgsl and reduce-splits.wgsl; the host's side
// is products.ts.
//
// A_MODE 0: A[m, k] at a[m * lda + k]; 1: at a[k * lda + m]. B_MODE 0: B[n, k] at b[n * ldb + k]; 1: at b[k * ldb + n].
// DROPOUT: 0 none; the mask multiplies 1 A's elements, 2 B's, 3 the product's. Element numbers run along its rows.
// ADAPTER 1: to the product comes adapterScale u F, u [M, rank] at u[m * ldu + r], F as B in B_MODE (adapter.wgsl).

struct Params {
  a: u32, c: u32, addend: u32, second: u32, factor: u32, b: u32, b2: u32, b3: u32,
  m: u32, n: u32, k: u32, lda: u32, ldb: u32, ldc: u32,
  kPerSplit: u32, splitStride: u32,
  flags: u32, scale: f32,
  firstElement: u32, nestedOffset: f32,
  seedLow: u32, seedHigh: u32, stream: u32, threshold: u32, keepScale: f32, maskStride: u32, maskFirst: u32, rounds: u32,
  firstRow: u32,
  rank: u32, ldu: u32, adapterScale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
