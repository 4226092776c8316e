// Products of f32 operands by fused multiply-adds, for precision fp32: the terms, slices and ends of product.h. A thread makes
// TM x TN of a tile; steps of 16 of K come element by element through cp.async, so that operands may lie anywhere and either
// way. Element [k][row] in shared memory, whichever way it came.
#include "../device.h"

/** As ProductArguments of product-bf16.cu, of f32 operands with any row lengths; flags tell operands stored K by rows. */
struct ProductF32Arguments {
  const float* a[2];
  const float* b[2];
  float* c;
  const float* bias;
  const float* residual;
  float* partials;  // slices of `steps` steps of 16 of K
  u32 k[2];
  u32 lda[2];
  u32 ldb[2];
  u32 terms, m, n, ldc, flags, steps;
};

#include "product.h"

constexpr int kStep = 16, kStages = 3;

template <int WIDTH>
struct PlainTile {
  float elements[kStep][WIDTH + 4];
};

template <int THREADS, int WIDTH>
FN void loadPlainTile(PlainTile<WIDTH>& tile, const float* from, bool across, u32 stride, u32 first, u32 count, u32 k0, u32 k) {
  UNROLL
  for (int i = 0; i < WIDTH * kStep / THREADS; i++) {
    const u32 at = threadIdx.x + i * THREADS;
    const u32 depth = across ? at / WIDTH : at % kStep, width = across ? at % WIDTH : at / kStep;
    const bool valid = k0 + depth < k && first + width < count;
    const u64 place = across ? static_cast<u64>(k0 + depth) * stride + first + width
                             : static_cast<u64>(first + width) * stride + k0 + depth;
    copyAsync4(&tile.elements[depth][width], valid ? from + place : from, valid);
  }
}

template <int BM, int BN, int TM, int TN>
FN void productF32(const ProductF32Arguments& a) {
  constexpr int THREADS = (BM / TM) * (BN / TN), COLUMNS = BN / TN;
  struct Shared {
    struct {
      PlainTile<BM> a;
      PlainTile<BN> b;
    } stages[kStages];
  };
  DYNAMIC_SHARED(Shared, shared);
  const int tx = threadIdx.x % COLUMNS, ty = threadIdx.x / COLUMNS;
  const u32 m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
  u32 first;
  const u32 steps = productSteps(a, kStep, first);
  ProductCursor cursor = productCursor(a, kStep, first);
  auto bring = [&](u32 slot) {
    auto& stage = shared.stages[slot];
    const u32 t = cursor.term;
    loadPlainTile<THREADS>(stage.a, a.a[t], (a.flags & kATransposed) != 0, a.lda[t], m0, a.m, cursor.k0, a.k[t]);
    loadPlainTile<THREADS>(stage.b, a.b[t], (a.flags & kBTransposed) != 0, a.ldb[t], n0, a.n, cursor.k0, a.k[t]);
    cursor.k0 += kStep;
    if (cursor.k0 >= a.k[t]) cursor.k0 = 0, cursor.term++;
  };
  _Pragma("unroll 1")
  for (u32 i = 0; i < kStages - 1; i++) {
    if (i < steps) bring(i);
    commitCopies();
  }
  // Columns of a thread lie in fours, BN / 2 apart where there are eight.
  constexpr int kFours = TN / 4;
  float sums[TM][TN] = {};
  u32 slot = 0;
  for (u32 step = 0; step < steps; step++) {
    waitCopies<kStages - 2>();
    __syncthreads();
    if (step + kStages - 1 < steps) bring(slot == 0 ? kStages - 1 : slot - 1);
    commitCopies();
    const auto& stage = shared.stages[slot];
    _Pragma("unroll 4")
    for (int k = 0; k < kStep; k++) {
      float left[TM], right[TN];
      UNROLL
      for (int i = 0; i < TM; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(&stage.a.elements[k][ty * TM + i]);
        left[i] = four.x, left[i + 1] = four.y, left[i + 2] = four.z, left[i + 3] = four.w;
      }
      UNROLL
      for (int j = 0; j < kFours; j++) {
        const float4 four = *reinterpret_cast<const float4*>(&stage.b.elements[k][j * (BN / kFours) + 4 * tx]);
        right[4 * j] = four.x, right[4 * j + 1] = four.y, right[4 * j + 2] = four.z, right[4 * j + 3] = four.w;
      }
      UNROLL
      for (int i = 0; i < TM; i++) {
        UNROLL
        for (int j = 0; j < TN; j++) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
      }
    }
    slot = slot + 1 == kStages ? 0 : slot + 1;
  }
  waitCopies<0>();
  UNROLL
  for (int i = 0; i < TM; i++) {
    const u32 row = m0 + ty * TM + i;
    if (row >= a.m) continue;
    UNROLL
    for (int j = 0; j < TN; j += 2)
      finishPair(a, row, n0 + j / 4 * (BN / kFours) + 4 * tx + j % 4, sums[i][j], sums[i][j + 1]);
  }
}

KERNEL(productF32Of128x128, ProductF32Arguments, 256, 1, 50688) { productF32<128, 128, 8, 8>(a); }
KERNEL(productF32Of64x64, ProductF32Arguments, 256, 2, 26112) { productF32<64, 64, 4, 4>(a); }
KERNEL(productF32Of64x32, ProductF32Arguments, 128, 3, 19968) { productF32<64, 32, 4, 4>(a); }
