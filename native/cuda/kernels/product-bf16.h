// One block of a product of bf16 operands with f32 sums: a tile of BM x BN of C by warps of WM x WN, K in steps of 32 that
// cp.async brings STAGES - 1 steps ahead. An operand lies along K (rows of C by K) or across it (K by rows); ldmatrix turns
// the second kind. Codes of a quantised B come into registers one step earlier still and are decoded on their way into
// shared memory, each once a block. Rows of a tile in shared memory are swizzled by chunks of 16 bytes, so that eight rows
// of a matrix lie in eight different groups of banks. Which kernels are made of this: product-bf16.cu.
#pragma once
#include "product.h"
#include "quantized.h"

/** Which way A and B lie: C = A B^T (forward), A B (with respect to the input), A^T B (with respect to the weight). */
enum ProductForm { kForward, kInput, kWeight };

constexpr int kDepth = 32;
/** A tile of one operand: WIDTH rows or columns of C by kDepth of K. ACROSS: stored K by WIDTH. */
template <int WIDTH, bool ACROSS>
struct OperandTile {
  static constexpr int kChunks = ACROSS ? WIDTH / 8 : kDepth / 8;  // of 8 elements, in a row
  u16 elements[WIDTH * kDepth];

  __device__ __forceinline__ static int offsetOf(int row, int chunk) {
    const int swizzled = kChunks >= 8 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3);
    return (row * kChunks + swizzled) * 8;
  }
  __device__ __forceinline__ u16* at(int row, int chunk) { return elements + offsetOf(row, chunk); }
};

/** Brings this thread's part of a tile whose first row or column of C is `first` of `count`. */
template <int THREADS, int WIDTH, bool ACROSS>
FN void loadTile(OperandTile<WIDTH, ACROSS>& tile, const u16* from, u32 stride, u32 first, u32 count, u32 k0, u32 k) {
  constexpr int kChunks = OperandTile<WIDTH, ACROSS>::kChunks, kEach = WIDTH * kDepth / 8 / THREADS;
  constexpr int kRows = THREADS / kChunks;  // rows between two chunks of one thread
  static_assert(kEach * THREADS * 8 == WIDTH * kDepth && THREADS % kChunks == 0, "a thread's share is whole");
  const u32 row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
  const u32 rowBase = ACROSS ? k0 : first, columnBase = ACROSS ? first : k0;
  const u32 rowLimit = ACROSS ? k : count, columnLimit = ACROSS ? count : k;
  const u16* source = from + static_cast<u64>(rowBase + row) * stride + columnBase + chunk * 8;
  const u64 apart = static_cast<u64>(kRows) * stride;
  const bool inColumns = columnBase + chunk * 8 < columnLimit;
  UNROLL
  for (int i = 0; i < kEach; i++) {
    const bool valid = inColumns && rowBase + row + i * kRows < rowLimit;
    copyAsync16(tile.at(row + i * kRows, chunk), valid ? source + i * apart : from, valid);
  }
}

/** A thread's codes of one step of a quantised B, on their way to shared memory. */
template <int THREADS, int WIDTH, bool ACROSS>
struct CodeCarrier {
  static constexpr int kChunks = OperandTile<WIDTH, ACROSS>::kChunks, kEach = WIDTH * kDepth / 8 / THREADS;
  static constexpr int kRows = THREADS / kChunks;
  u32 words[kEach];
  float scales[kEach];  // of plain scales, or the nested scale
  u32 bytes[kEach];
  bool present[kEach];

  __device__ __forceinline__ void fetch(const ProductArguments& a, u32 first, u32 count, u32 k0) {
    const u32* codes = static_cast<const u32*>(a.b[0]);
    const u32 row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    const u32 rowBase = ACROSS ? k0 : first, columnBase = ACROSS ? first : k0;
    const u32 rowLimit = ACROSS ? a.k[0] : count, columnLimit = ACROSS ? count : a.k[0];
    const u32 wordsInRow = a.ldb[0] / 8;
    const bool inColumns = columnBase + chunk * 8 < columnLimit;
    UNROLL
    for (int i = 0; i < kEach; i++) {
      const u32 r = rowBase + row + i * kRows;
      const bool valid = inColumns && r < rowLimit;
      const u32 word = valid ? r * wordsInRow + columnBase / 8 + chunk : 0;
      const u32 block = word >> (a.blockShift - 3);
      words[i] = codes[word];
      if (a.nestedCodebook) {
        bytes[i] = static_cast<const u8*>(a.absmax)[block];
        scales[i] = a.nestedAbsmax[block >> a.nestedShift];
      } else {
        scales[i] = static_cast<const float*>(a.absmax)[block];
      }
      present[i] = valid;
    }
  }

  /** Each number is made as product-operands.cu makes it. */
  __device__ __forceinline__ void store(const ProductArguments& a, OperandTile<WIDTH, ACROSS>& tile, const float* table) const {
    const bool nested = a.nestedCodebook != nullptr;
    const u32 row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    UNROLL
    for (int i = 0; i < kEach; i++) {
      const float scale = nested ? a.nestedCodebook[bytes[i]] * scales[i] + a.nestedOffset : scales[i];
      const uint4 eight = decodeEight(words[i], table, scale);
      *reinterpret_cast<uint4*>(tile.at(row + i * kRows, chunk)) = present[i] ? eight : make_uint4(0, 0, 0, 0);
    }
  }
};

template <ProductForm FORM, int BM, int BN, int STAGES, bool QUANTISED>
struct ProductShared {
  struct Stage {
    OperandTile<BM, FORM == kWeight> a;
    OperandTile<BN, FORM != kForward> b;
  } stages[STAGES];
  float codebook[QUANTISED ? 16 : 4];
};

/** Fragments of 16 rows of A at `row` of the tile, K 16 s to 16 s + 15. */
template <int WIDTH, bool ACROSS>
FN void fragmentsOfA(u32 (&r)[4], OperandTile<WIDTH, ACROSS>& tile, int row, int s) {
  const int lane = threadIdx.x & 31;
  if (ACROSS) loadMatricesTransposed(r, tile.at(16 * s + (lane & 7) + (lane >> 4) * 8, row / 8 + (lane >> 3 & 1)));
  else loadMatrices(r, tile.at(row + (lane & 15), 2 * s + (lane >> 4)));
}

/** Fragments of 16 columns of B at `column`: two of the first 8, two of the others. */
template <int WIDTH, bool ACROSS>
FN void fragmentsOfB(u32 (&r)[4], OperandTile<WIDTH, ACROSS>& tile, int column, int s) {
  const int lane = threadIdx.x & 31;
  if (ACROSS) loadMatricesTransposed(r, tile.at(16 * s + (lane & 15), column / 8 + (lane >> 4)));
  else loadMatrices(r, tile.at(column + (lane & 7) + (lane >> 4) * 8, 2 * s + (lane >> 3 & 1)));
}

template <ProductForm FORM, int BM, int BN, int WM, int WN, int STAGES, bool QUANTISED>
FN void productBf16(const ProductArguments& a) {
  constexpr int THREADS = (BM / WM) * (BN / WN) * 32, MI = WM / 16, NJ = WN / 8;
  using Shared = ProductShared<FORM, BM, BN, STAGES, QUANTISED>;
  DYNAMIC_SHARED(Shared, shared);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const u32 m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
  const int wm = warp % (BM / WM) * WM, wn = warp / (BM / WM) * WN;

  u32 first;
  const u32 steps = productSteps(a, kDepth, first);
  ProductCursor cursor = productCursor(a, kDepth, first);  // of the next step to bring
  ProductCursor ahead = cursor;                            // of the next codes to fetch
  CodeCarrier<THREADS, BN, FORM != kForward> carrier;
  auto advance = [&](ProductCursor& c) {
    c.k0 += kDepth;
    if (c.k0 >= a.k[c.term]) c.k0 = 0, c.term++;
  };
  auto fetch = [&] {  // codes of one step into registers, where that step has any
    if (ahead.term > 0) return;
    carrier.fetch(a, n0, a.n, ahead.k0);
    advance(ahead);
  };
  auto bring = [&](u32 slot) {
    auto& stage = shared.stages[slot];
    const u32 t = cursor.term, k0 = cursor.k0;
    loadTile<THREADS>(stage.a, static_cast<const u16*>(a.a[t]), a.lda[t], m0, a.m, k0, a.k[t]);
    if (QUANTISED && t == 0) carrier.store(a, stage.b, shared.codebook);
    else loadTile<THREADS>(stage.b, static_cast<const u16*>(a.b[t]), a.ldb[t], n0, a.n, k0, a.k[t]);
    advance(cursor);
  };

  if (QUANTISED) {
    if (tid < 16) shared.codebook[tid] = a.codebook[tid];
    __syncthreads();
    fetch();
  }
  _Pragma("unroll 1")
  for (u32 i = 0; i < STAGES - 1; i++) {
    if (i < steps) {
      bring(i);
      if (QUANTISED) fetch();
    }
    commitCopies();
  }

  float sums[MI][NJ][4] = {};
  u32 slot = 0;
  for (u32 step = 0; step < steps; step++) {
    waitCopies<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) {
      bring(slot == 0 ? STAGES - 1 : slot - 1);
      if (QUANTISED) fetch();
    }
    commitCopies();
    auto& stage = shared.stages[slot];
    UNROLL
    for (int s = 0; s < kDepth / 16; s++) {
      u32 left[MI][4], right[NJ / 2][4];
      UNROLL
      for (int i = 0; i < MI; i++) fragmentsOfA(left[i], stage.a, wm + 16 * i, s);
      UNROLL
      for (int j = 0; j < NJ / 2; j++) fragmentsOfB(right[j], stage.b, wn + 16 * j, s);
      UNROLL
      for (int i = 0; i < MI; i++) {
        UNROLL
        for (int j = 0; j < NJ; j++) {
          const u32* b = right[j / 2] + j % 2 * 2;
          mmaBf16(sums[i][j], left[i][0], left[i][1], left[i][2], left[i][3], b[0], b[1]);
        }
      }
    }
    slot = slot + 1 == STAGES ? 0 : slot + 1;
  }
  waitCopies<0>();

  // Sixteen rows at a time go through shared memory, so that a warp writes whole stretches of rows.
  __syncthreads();
  constexpr int kPitch = WN + 8, kRows = 64 / WN > 0 ? 64 / WN : 1;  // floats, rows a warp writes at once
  static_assert((BM / WM) * (BN / WN) * 16 * kPitch * 4 <= sizeof(shared.stages), "the warps' rows fit the stages");
  float* own = reinterpret_cast<float*>(&shared) + warp * 16 * kPitch;
  UNROLL
  for (int i = 0; i < MI; i++) {
    UNROLL
    for (int j = 0; j < NJ; j++) {
      float* to = own + (lane >> 2) * kPitch + 8 * j + 2 * (lane & 3);
      *reinterpret_cast<float2*>(to) = make_float2(sums[i][j][0], sums[i][j][1]);
      *reinterpret_cast<float2*>(to + 8 * kPitch) = make_float2(sums[i][j][2], sums[i][j][3]);
    }
    __syncwarp();
    const int column = 2 * lane % WN;
    _Pragma("unroll 1")
    for (int r = 2 * lane / WN; r < 16; r += kRows) {
      const u32 row = m0 + wm + 16 * i + r;
      const float2 pair = *reinterpret_cast<const float2*>(own + r * kPitch + column);
      if (row < a.m) finishPair(a, row, n0 + wn + column, pair.x, pair.y);
    }
    __syncwarp();
  }
}
