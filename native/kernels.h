// The table of native kernels, one function a kernel of src/backend/backend.ts (same names), over raw
// pointers. Every instruction set fills one table; dispatch.cc picks one at run time. Not here: the products
// (gemm/gemm.h), threads (threads.h), Node-API (addon.cc).
//
// Shapes and meanings are those of backend.ts; sizes are int64_t. f32 unless said otherwise.
#pragma once
#include <cstdint>

namespace lowrank {

enum class DType : int { F32 = 0, BF16 = 1, F16 = 2, F64 = 3, I32 = 4, U8 = 5 };
enum class Activation : int { Silu = 0, Gelu = 1, GeluTanh = 2 };

struct Segment {  // one row of Segments.table
  int32_t qStart, qLength, kStart, kLength;
};

struct AttentionArgs {
  const float *q, *k, *v;          // [Tq,H,D] [Tk,G,D] [Tk,G,D]
  const Segment* segments;
  int64_t segmentCount, tq, heads, kvHeads, headDim;
  float scale;
  int64_t window;                  // 0: none
  float* out;                      // [Tq,H,D]
  float* lse;                      // [Tq,H]
};

struct AttentionBackwardArgs {
  AttentionArgs f;                 // out and lse are inputs here
  const float* dOut;
  float *dq, *dk, *dv;
};

struct AdamwArgs {
  float *params, *grads, *m, *v;
  int64_t count;
  double learningRate, beta1, beta2, epsilon, weightDecay;
  int64_t step;
  const float* clipSumSquares;     // null: no clipping
  double maxNorm;
};

/** As AdamwArgs, with moments as codes of 256-entry maps and one scale for every 256 elements. */
struct Adamw8bitArgs {
  float *params, *grads;
  uint8_t *mCodes, *vCodes;
  float *mAbsmax, *vAbsmax;
  const float *mMap, *vMap;
  int64_t count;
  double learningRate, beta1, beta2, epsilon, weightDecay;
  int64_t step;
  const float* clipSumSquares;
  double maxNorm;
};

struct Quantize4bitArgs {
  const void* x;
  DType type;                      // F32, BF16 or F16
  int64_t count, blockSize;        // blockSize even, at most 4096
  uint8_t* codes;
  float* absmax;
  float thresholds[15];
  uint8_t codeByRank[16];
};

struct KernelTable {
  const char* isa;
  void (*fill)(float* y, int64_t n, float value);
  void (*cast)(const void* x, DType from, void* y, DType to, int64_t n);
  void (*addInPlace)(const float* x, float* y, int64_t n);
  void (*scaleInPlace)(float* y, int64_t n, float factor);
  void (*fillUniform)(void* y, DType type, int64_t n, float bound, uint64_t seed, uint32_t stream);
  void (*gatherRows)(const float* x, const int32_t* index, float* y, int64_t m, int64_t c);
  void (*scatterRows)(const float* x, const int32_t* index, float* y, int64_t m, int64_t c);
  void (*sum)(const float* x, int64_t n, float* out);
  void (*sumSquares)(const float* x, int64_t n, float* out);
  void (*countNonFinite)(const void* x, DType type, int64_t n, float* out);
  void (*embedding)(const int32_t* ids, const void* table, DType type, float* y, int64_t t, int64_t c);
  void (*embeddingBackward)(const int32_t* ids, const float* dy, float* dTable, int64_t t, int64_t c, int64_t v);
  void (*rmsNorm)(const float* x, const float* w, float eps, float* y, float* rstd, int64_t n, int64_t c);
  void (*rmsNormBackward)(const float* x, const float* w, const float* rstd, const float* dy, float* dx,
                          bool accumulate, float* dw, int64_t n, int64_t c);  // dx, dw may be null
  void (*rope)(const float* x, const int32_t* positions, const float* cosTable, const float* sinTable,
               float direction, float* y, int64_t t, int64_t heads, int64_t headDim, int64_t half);
  void (*attention)(const AttentionArgs& a);
  void (*attentionBackward)(const AttentionBackwardArgs& a);
  void (*gatedActivation)(Activation kind, const float* gate, const float* up, float* y, int64_t n);
  void (*gatedActivationBackward)(Activation kind, const float* gate, const float* up, const float* dy,
                                  float* dGate, float* dUp, int64_t n);
  void (*crossEntropy)(const float* logits, const int32_t* targets, float* loss, float* dLogits,
                       float gradScale, int64_t n, int64_t v);  // dLogits may be null or logits itself
  void (*adamw)(const AdamwArgs& a);
  void (*adamw8bit)(const Adamw8bitArgs& a);
  void (*quantize4bit)(const Quantize4bitArgs& a);
};

/**
 * Attention by products of bf16 inputs with f32 sums, for sets with such instructions (bf16/). Segments that are too
 * small to gain by it go to `plain`'s attention.
 */
struct Bf16AttentionTable {
  void (*attention)(const AttentionArgs& a, const KernelTable& plain);
  void (*attentionBackward)(const AttentionBackwardArgs& a, const KernelTable& plain);
};
const Bf16AttentionTable* bf16AttentionTableAvx512Bf16();

/** Compiled from the same sources under other flags. AVX512-BF16 and AMX machines run AVX-512's. */
const KernelTable* kernelTablePortable();
const KernelTable* kernelTableAvx2();
const KernelTable* kernelTableAvx512();
const KernelTable* kernelTableNeon();

}  // namespace lowrank
