// Operands of products in the form that their kernels read: rows packed to bf16 (or copied to f32) with a factor and dropout's
// mask, and quantised weights expanded. Rows begin at multiples of `pitch` and end in zeros.
#include "../device.h"

/**
 * Job j: target[j] [targetRows, pitch] = factor * mask(source[j] [rows, columns]), zeros outside; source of a dtype
 * (sourceType), rows of `columns` elements. Element i is kept iff its word >= threshold, and scaled by keptScale; threshold 0:
 * all are kept as they are.
 */
struct PackRowsArguments {
  const void* source[12];
  void* target[12];
  u64 seed[12];
  u32 rows[12];
  u32 columns[12];
  u32 targetRows[12];
  u32 pitch[12];  // a multiple of 8
  u32 sourceType[12];
  u32 stream[12];
  u32 threshold[12];
  float keptScale[12];
  float factor[12];
};

/** codes of rows [firstRow, firstRow + rows) of a matrix of `columns` (quantized.h), expanded to [rows, pitch]. */
struct ExpandCodesArguments {
  const void* codes;
  const float* codebook;
  const void* absmax;
  const float* nestedAbsmax;
  const float* nestedCodebook;
  void* target;
  u32 firstRow, rows, columns, pitch;
  u32 blockSize, nestedBlockSize;
  u32 blockShift, nestedShift;  // log2 of them, or 64 where they are no powers of two
  float nestedOffset;
};

#include "quantized.h"

FN void storeEight(u16* to, const float (&x)[8]) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(packBf16(x[0], x[1]), packBf16(x[2], x[3]), packBf16(x[4], x[5]), packBf16(x[6], x[7]));
}
FN void storeEight(float* to, const float (&x)[8]) {
  *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
  *reinterpret_cast<float4*>(to + 4) = make_float4(x[4], x[5], x[6], x[7]);
}

/** Eight elements from element `index` of a source, `count` of which there are. */
FN void loadEight(float (&x)[8], const void* source, u32 type, u64 index, u32 count) {
  const bool whole = count >= 8 && (reinterpret_cast<u64>(source) & 15) == 0 && (index & 7) == 0;
  if (whole && type == kF32) {
    const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(source) + index);
    const float4 low = from[0], high = from[1];
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
  } else if (whole && type == kBf16) {
    const uint4 words = *reinterpret_cast<const uint4*>(static_cast<const u16*>(source) + index);
    const u32 pairs[4] = {words.x, words.y, words.z, words.w};
    UNROLL
    for (int i = 0; i < 4; i++) x[2 * i] = lowBf16(pairs[i]), x[2 * i + 1] = highBf16(pairs[i]);
  } else {
    UNROLL
    for (u32 i = 0; i < 8; i++) x[i] = i < count ? loadAs(source, type, index + i) : 0.0f;
  }
}

template <typename T>
FN void packRows(const PackRowsArguments& a) {
  const u32 j = blockIdx.y;
  const u32 at = blockIdx.x * 256 + threadIdx.x, chunks = a.pitch[j] / 8, row32 = at / chunks;
  if (row32 >= a.targetRows[j]) return;
  const u32 column = (at - row32 * chunks) * 8;
  const u64 row = row32;
  T* to = static_cast<T*>(a.target[j]) + row * a.pitch[j] + column;
  const bool inside = row < a.rows[j] && column < a.columns[j];
  const u64 index = row * a.columns[j] + column;
  const u32 count = inside ? a.columns[j] - column : 0;
  if (a.threshold[j] && (index & 3)) {  // rows that share blocks of random words
    _Pragma("unroll 1")
    for (u32 i = 0; i < 8; i++) {
      float value = 0;
      if (i < count && randomBits(a.seed[j], a.stream[j], index + i) >= a.threshold[j])
        value = loadAs(a.source[j], a.sourceType[j], index + i) * a.keptScale[j] * a.factor[j];
      storeAs(to, sizeof(T) == 4 ? kF32 : kBf16, i, value);
    }
    return;
  }
  float x[8] = {};
  if (inside) {
    loadEight(x, a.source[j], a.sourceType[j], index, count);
    if (a.threshold[j]) {
      UNROLL
      for (int half = 0; half < 2; half++) {
        u32 words[4];
        philox(index / 4 + half, a.stream[j], a.seed[j], words);
        UNROLL
        for (int i = 0; i < 4; i++) {
          float& value = x[4 * half + i];
          value = words[i] >= a.threshold[j] ? value * a.keptScale[j] : 0.0f;
        }
      }
    }
    UNROLL
    for (int i = 0; i < 8; i++) x[i] *= a.factor[j];
  }
  storeEight(to, x);
}

KERNEL(packRowsBf16, PackRowsArguments, 256, 4, 0) { packRows<u16>(a); }
KERNEL(packRowsF32, PackRowsArguments, 256, 4, 0) { packRows<float>(a); }

template <typename T>
FN void expandCodes(const ExpandCodesArguments& a) {
  SHARED_ARRAY(float, table, 16);
  SHARED_ARRAY(float, nested, 256);
  if (threadIdx.x < 16) table[threadIdx.x] = a.codebook[threadIdx.x];
  if (a.nestedCodebook) nested[threadIdx.x] = a.nestedCodebook[threadIdx.x];
  __syncthreads();
  const u32 at = blockIdx.x * 256 + threadIdx.x, chunks = a.pitch / 8, row32 = at / chunks;
  if (row32 >= a.rows) return;
  const u32 column = (at - row32 * chunks) * 8;
  const u64 row = row32;
  auto scaleAt = [&](u64 block) {
    if (!a.nestedCodebook) return static_cast<const float*>(a.absmax)[block];
    const float code = nested[static_cast<const u8*>(a.absmax)[block]];
    return code * a.nestedAbsmax[divideBy(block, a.nestedBlockSize, a.nestedShift)] + a.nestedOffset;
  };
  float x[8] = {};
  const u64 first = (a.firstRow + row) * a.columns + column;
  const u8* codes = static_cast<const u8*>(a.codes);
  if (((a.columns | a.blockSize) & 7) == 0 && (reinterpret_cast<u64>(codes) & 3) == 0) {
    if (column < a.columns) {
      const u32 word = *reinterpret_cast<const u32*>(codes + first / 2);
      const float scale = scaleAt(divideBy(first, a.blockSize, a.blockShift));
      UNROLL
      for (int i = 0; i < 8; i++) x[i] = table[codeOf(word, i)] * scale;
    }
  } else {
    for (u32 i = 0; i < 8 && column + i < a.columns; i++) {
      const u64 element = first + i;
      const u32 pair = codes[element / 2];
      x[i] = table[element & 1 ? pair & 15u : pair >> 4] * scaleAt(divideBy(element, a.blockSize, a.blockShift));
    }
  }
  storeEight(static_cast<T*>(a.target) + row * a.pitch + column, x);
}

KERNEL(expandCodesBf16, ExpandCodesArguments, 256, 4, 0) { expandCodes<u16>(a); }
KERNEL(expandCodesF32, ExpandCodesArguments, 256, 4, 0) { expandCodes<float>(a); }
