// Products of few rows, as decoding has them: bound by the bytes of the weight, each of which is read once, by all of a block's
// warps, each along its own part of K. A row's bits depend on nothing but K: neither on the rows beside it nor on how many
// there are. Layers that share x go in one launch. productRows...: bf16 by mma.sync, 16 outputs a block as the rows of A
// and up to 16 rows of x as columns of B, a weight's 4-bit codes taken unscaled and the scale applied to sums over 64; K walked
// in an order that gives each lane neighbouring elements. productRowsF32: any weight lying anyhow, by fused multiply-adds in f32.
#include "../device.h"

/**
 * y[p] [rows, n[p]] = x weight[p]^T + bias[p] + residual[p] + scale[p] u[p] b[p]^T, rank[p] 0: no adapter. x is bf16 or f32
 * (xType), or f32 in the kernels of f32; `pitch` elements from one to the next. Part p's blocks begin at firstBlock[p].
 */
struct ProductRowsArguments {
  const void* x;
  const void* weight[4];
  const float* codebook[4];
  const void* absmax[4];
  const float* nestedAbsmax[4];
  const float* nestedCodebook[4];
  const float* bias[4];
  const float* residual[4];  // may be y
  const float* u[4];
  const float* b[4];
  float* y[4];
  u32 n[4];
  u32 rank[4];
  u32 firstBlock[4];
  u32 kind[4];  // a dtype's code, or 4 for codes
  u32 blockSize[4];
  u32 nestedBlockSize[4];
  u32 blockShift[4];  // log2 of the sizes, or 64 where they are no powers of two
  u32 nestedShift[4];
  float nestedOffset[4];
  float scale[4];
  u32 parts, rows, k, pitch, xType;
};

#include "quantized.h"

constexpr u32 kCodes = 4;
constexpr int kOutputs = 16, kWarps = 8;

FN u32 partOf(const ProductRowsArguments& a) {
  u32 p = 0;
  while (p + 1 < a.parts && blockIdx.x >= a.firstBlock[p + 1]) p++;
  return p;
}

FN void finishRow(const ProductRowsArguments& a, u32 p, u32 row, u32 output, float value) {
  const u64 index = static_cast<u64>(row) * a.n[p] + output;
  if (a.rank[p]) {
    const float* u = a.u[p] + static_cast<u64>(row) * a.rank[p];
    const float* b = a.b[p] + static_cast<u64>(output) * a.rank[p];
    float sum = 0;
    for (u32 r = 0; r < a.rank[p]; r++) sum = fmaf(u[r], b[r], sum);
    value = fmaf(a.scale[p], sum, value);
  }
  if (a.bias[p]) value += a.bias[p][output];
  if (a.residual[p]) value += a.residual[p][index];
  a.y[p][index] = value;
}

/** The scale of a block of part p's codes. */
FN float scaleAt(const ProductRowsArguments& a, u32 p, u64 block) {
  if (!a.nestedCodebook[p]) return static_cast<const float*>(a.absmax[p])[block];
  const float code = a.nestedCodebook[p][static_cast<const u8*>(a.absmax[p])[block]];
  return code * a.nestedAbsmax[p][divideBy(block, a.nestedBlockSize[p], a.nestedShift[p])] + a.nestedOffset[p];
}

/** Eight floats as pairs of bf16. */
FN uint4 packEight(const float* from) {
  const float4 x = reinterpret_cast<const float4*>(from)[0], y = reinterpret_cast<const float4*>(from)[1];
  return make_uint4(packBf16(x.x, x.y), packBf16(x.z, x.w), packBf16(y.x, y.y), packBf16(y.z, y.w));
}

/** Adds one step of 16 of K to the sums of 16 outputs and GROUPS times 8 rows. */
template <int GROUPS>
FN void multiplyStep(float (&sums)[GROUPS][4], u32 low0, u32 high0, u32 low1, u32 high1, const u32 (&x)[GROUPS][2]) {
  UNROLL
  for (int group = 0; group < GROUPS; group++) mmaBf16(sums[group], low0, high0, low1, high1, x[group][0], x[group][1]);
}

/** Eight elements of a row of x from element `at` on as pairs of bf16; zeros where the row or the elements are not there. */
FN uint4 eightOf(const ProductRowsArguments& a, u32 row, u32 at) {
  if (row >= a.rows || at >= a.k) return make_uint4(0, 0, 0, 0);
  const u64 place = static_cast<u64>(row) * a.pitch + at;
  if (a.xType == kBf16) return *reinterpret_cast<const uint4*>(static_cast<const u16*>(a.x) + place);
  return packEight(static_cast<const float*>(a.x) + place);
}

/** A lane's codes of four groups of 64 elements of two outputs, and the scales that it finds for its warp. */
struct CodesAhead {
  uint2 words[4][2];
  float scales[2];
};

FN void loadCodes(const ProductRowsArguments& a, u32 p, const u32 (&outputs)[2], u32 first, u32 groups, CodesAhead& codes) {
  const u32 t = threadIdx.x & 3;
  UNROLL
  for (int h = 0; h < 2; h++) {
    const bool inside = outputs[h] < a.n[p];
    const u32 group = (inside ? outputs[h] : 0) * groups + first;
    UNROLL
    for (u32 q = 0; q < 4; q++)
      codes.words[q][h] = static_cast<const uint2*>(a.weight[p])[(first + q < groups ? group + q : 0) * 4 + t];
    // Each of the four lanes of an output finds the scale of one group.
    codes.scales[h] = inside && first + t < groups ? scaleAt(a, p, (group + t) >> (a.blockShift[p] - 6)) : 0.0f;
  }
}

/** Sums of this warp's steps over codes, four groups at a time; the next four are under way while these are multiplied. */
template <int GROUPS>
FN void sumCodes(const ProductRowsArguments& a, u32 p, u32 firstOutput, float (&sums)[GROUPS][4]) {
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const CodePlanes planes = planesOf(a.codebook[p]);
  const u32 groups = a.k / 64;
  const u32 outputs[2] = {firstOutput + g, firstOutput + g + 8};
  CodesAhead codes, ahead;
  if (warp * 4 < groups) loadCodes(a, p, outputs, warp * 4, groups, ahead);
  for (u32 first = warp * 4; first < groups; first += kWarps * 4) {
    codes = ahead;
    if (first + kWarps * 4 < groups) loadCodes(a, p, outputs, first + kWarps * 4, groups, ahead);
    UNROLL
    for (u32 q = 0; q < 4; q++) {
      float block[GROUPS][4] = {};
      UNROLL
      for (int half = 0; half < 2; half++) {
        u32 low[4], high[4], pairs[GROUPS][4];
        pickEight(planes, half ? codes.words[q][0].y : codes.words[q][0].x, low);
        pickEight(planes, half ? codes.words[q][1].y : codes.words[q][1].x, high);
        UNROLL
        for (int group = 0; group < GROUPS; group++) {
          const uint4 four = eightOf(a, 8 * group + g, (first + q) * 64 + 16 * t + 8 * half);
          pairs[group][0] = four.x, pairs[group][1] = four.y, pairs[group][2] = four.z, pairs[group][3] = four.w;
        }
        UNROLL
        for (int s = 0; s < 2; s++) {
          u32 step[GROUPS][2];
          UNROLL
          for (int group = 0; group < GROUPS; group++) step[group][0] = pairs[group][2 * s], step[group][1] = pairs[group][2 * s + 1];
          multiplyStep<GROUPS>(block, low[2 * s], high[2 * s], low[2 * s + 1], high[2 * s + 1], step);
        }
      }
      float scales[2];
      UNROLL
      for (int h = 0; h < 2; h++) scales[h] = __shfl_sync(kWholeWarp, codes.scales[h], (lane & 28) + q);
      UNROLL
      for (int group = 0; group < GROUPS; group++) {
        UNROLL
        for (int e = 0; e < 4; e++) sums[group][e] = fmaf(scales[e >> 1], block[group][e], sums[group][e]);
      }
    }
  }
}

/** Eight elements of a weight of f32 or bf16 as pairs of bf16. */
template <bool PLAIN>
FN uint4 eightOfWeight(const void* weight, u64 at, bool valid) {
  if (!valid) return make_uint4(0, 0, 0, 0);
  if (!PLAIN) return *reinterpret_cast<const uint4*>(static_cast<const u16*>(weight) + at);
  return packEight(static_cast<const float*>(weight) + at);
}

/** Sums of this warp's steps over a weight of f32 or bf16: groups of 32 elements, four at once. */
template <bool PLAIN, int GROUPS>
FN void sumDense(const ProductRowsArguments& a, u32 p, u32 firstOutput, float (&sums)[GROUPS][4]) {
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const u32 outputs[2] = {firstOutput + g, firstOutput + g + 8};
  for (u32 first = warp * 128; first < a.k; first += kWarps * 128) {
    uint4 words[4][2];
    UNROLL
    for (u32 q = 0; q < 4; q++) {
      const u32 at = first + 32 * q + 8 * t;
      UNROLL
      for (int h = 0; h < 2; h++)
        words[q][h] = eightOfWeight<PLAIN>(a.weight[p], static_cast<u64>(outputs[h]) * a.k + at, at < a.k && outputs[h] < a.n[p]);
    }
    UNROLL
    for (u32 q = 0; q < 4; q++) {
      uint4 pairs[GROUPS];
      UNROLL
      for (int group = 0; group < GROUPS; group++)
        pairs[group] = eightOf(a, 8 * group + g, first + 32 * q + 8 * t);
      u32 step[GROUPS][2];
      UNROLL
      for (int group = 0; group < GROUPS; group++) step[group][0] = pairs[group].x, step[group][1] = pairs[group].y;
      multiplyStep<GROUPS>(sums, words[q][0].x, words[q][1].x, words[q][0].y, words[q][1].y, step);
      UNROLL
      for (int group = 0; group < GROUPS; group++) step[group][0] = pairs[group].z, step[group][1] = pairs[group].w;
      multiplyStep<GROUPS>(sums, words[q][0].z, words[q][1].z, words[q][0].w, words[q][1].w, step);
    }
  }
}

/** KIND: kF32, kBf16 or kCodes. */
template <u32 KIND, int GROUPS>
FN void productRows(const ProductRowsArguments& a) {
  SHARED_ARRAY(float, parts, kWarps * 8 * GROUPS * (kOutputs + 1));
  const u32 p = partOf(a), firstOutput = (blockIdx.x - a.firstBlock[p]) * kOutputs;
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  float sums[GROUPS][4] = {};
  if (KIND == kCodes) sumCodes<GROUPS>(a, p, firstOutput, sums);
  else sumDense<KIND == kF32, GROUPS>(a, p, firstOutput, sums);
  constexpr int kPitch = kOutputs + 1;
  UNROLL
  for (int group = 0; group < GROUPS; group++) {
    UNROLL
    for (int e = 0; e < 4; e++) {
      const u32 row = 8 * group + 2 * t + (e & 1), output = g + 8 * (e >> 1);
      parts[(warp * 8 * GROUPS + row) * kPitch + output] = sums[group][e];
    }
  }
  __syncthreads();
  const u32 row = threadIdx.x / kOutputs, output = threadIdx.x % kOutputs;
  if (row >= a.rows || row >= 8 * GROUPS || firstOutput + output >= a.n[p]) return;
  float value = parts[row * kPitch + output];
  for (u32 w = 1; w < kWarps; w++) value += parts[(w * 8 * GROUPS + row) * kPitch + output];
  finishRow(a, p, row, firstOutput + output, value);
}

KERNEL(productRowsPlain8, ProductRowsArguments, 256, 2, 0) { productRows<kF32, 1>(a); }
KERNEL(productRowsPlain16, ProductRowsArguments, 256, 2, 0) { productRows<kF32, 2>(a); }
KERNEL(productRowsHalf8, ProductRowsArguments, 256, 2, 0) { productRows<kBf16, 1>(a); }
KERNEL(productRowsHalf16, ProductRowsArguments, 256, 2, 0) { productRows<kBf16, 2>(a); }
KERNEL(productRowsCodes8, ProductRowsArguments, 256, 2, 0) { productRows<kCodes, 1>(a); }
KERNEL(productRowsCodes16, ProductRowsArguments, 256, 2, 0) { productRows<kCodes, 2>(a); }

/** Element i of part p's weight in f32. */
FN float weightAt(const ProductRowsArguments& a, u32 p, u64 i) {
  if (a.kind[p] != kCodes) return loadAs(a.weight[p], a.kind[p], i);
  const u32 pair = static_cast<const u8*>(a.weight[p])[i / 2];
  return a.codebook[p][i & 1 ? pair & 15u : pair >> 4] * scaleAt(a, p, divideBy(i, a.blockSize[p], a.blockShift[p]));
}

/** Eight elements from element i on, which lie under one scale where there are codes, at an address that allows it. */
FN void eightWeights(const ProductRowsArguments& a, u32 p, u64 i, float (&w)[8]) {
  if (a.kind[p] == kCodes) {
    const float scale = scaleAt(a, p, divideBy(i, a.blockSize[p], a.blockShift[p]));
    const u32 word = static_cast<const u32*>(a.weight[p])[i / 8];
    UNROLL
    for (int e = 0; e < 8; e++) w[e] = a.codebook[p][codeOf(word, e)] * scale;
  } else if (a.kind[p] == kBf16) {
    const uint4 words = *reinterpret_cast<const uint4*>(static_cast<const u16*>(a.weight[p]) + i);
    const u32 pairs[4] = {words.x, words.y, words.z, words.w};
    UNROLL
    for (int e = 0; e < 4; e++) w[2 * e] = lowBf16(pairs[e]), w[2 * e + 1] = highBf16(pairs[e]);
  } else {
    const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(a.weight[p]) + i);
    const float4 x = from[0], y = from[1];
    w[0] = x.x, w[1] = x.y, w[2] = x.z, w[3] = x.w, w[4] = y.x, w[5] = y.y, w[6] = y.z, w[7] = y.w;
  }
}

/** A warp an output, its lanes along K, ROWS rows of x at once. The way of reading is the weight's alone, so that rows are alike. */
template <int ROWS>
FN void productRowsF32(const ProductRowsArguments& a) {
  const u32 p = partOf(a), lane = threadIdx.x & 31;
  const u32 output = (blockIdx.x - a.firstBlock[p]) * kWarps + (threadIdx.x >> 5);
  const float* x = static_cast<const float*>(a.x);
  float sums[ROWS] = {};
  if (output < a.n[p]) {
    const u64 begin = static_cast<u64>(output) * a.k;
    const bool eights = a.kind[p] != kF16 && ((a.k | (a.kind[p] == kCodes ? a.blockSize[p] : 0) | (reinterpret_cast<u64>(a.weight[p]) >> 1)) & 7) == 0;
    if (eights) {
      for (u32 k = lane * 8; k < a.k; k += 256) {
        float w[8];
        eightWeights(a, p, begin + k, w);
        UNROLL
        for (u32 row = 0; row < ROWS; row++) {
          if (row >= a.rows) continue;
          const float* from = x + static_cast<u64>(row) * a.pitch + k;
          UNROLL
          for (int e = 0; e < 8; e++) sums[row] = fmaf(w[e], from[e], sums[row]);
        }
      }
    } else {
      for (u32 k = lane; k < a.k; k += 32) {
        const float w = weightAt(a, p, begin + k);
        UNROLL
        for (u32 row = 0; row < ROWS; row++) {
          if (row < a.rows) sums[row] = fmaf(w, x[static_cast<u64>(row) * a.pitch + k], sums[row]);
        }
      }
    }
  }
  float mine = 0;
  UNROLL
  for (u32 row = 0; row < ROWS; row++) {
    const float sum = warpSum(sums[row]);
    if (lane == row) mine = sum;
  }
  if (output < a.n[p] && lane < a.rows) finishRow(a, p, lane, output, mine);
}

KERNEL(productRowsF32Of4, ProductRowsArguments, 256, 2, 0) { productRowsF32<4>(a); }
KERNEL(productRowsF32Of16, ProductRowsArguments, 256, 2, 0) { productRowsF32<16>(a); }
