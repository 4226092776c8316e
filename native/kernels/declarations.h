// The kernels of one instruction set, one per entry of KernelTable (kernels.h), as table.cc collects them. Each
// lives in the file of its family. Not here: what they mean (src/backend/backend.ts).
#pragma once
#include "../isa.h"
#include "../kernels.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

// elementwise.cc
void fill(float* y, int64_t n, float value);
void cast(const void* x, DType from, void* y, DType to, int64_t n);  // cast.cc
void addInPlace(const float* x, float* y, int64_t n);
void scaleInPlace(float* y, int64_t n, float factor);
void fillUniform(void* y, DType type, int64_t n, float bound, uint64_t seed, uint32_t stream);  // random.cc
// embedding.cc
void gatherRows(const float* x, const int32_t* index, float* y, int64_t m, int64_t c);
void scatterRows(const float* x, const int32_t* index, float* y, int64_t m, int64_t c);
void embedding(const int32_t* ids, const void* table, DType type, float* y, int64_t t, int64_t c);
void embeddingBackward(const int32_t* ids, const float* dy, float* dTable, int64_t t, int64_t c, int64_t v);
// reduce.cc
void sum(const float* x, int64_t n, float* out);
void sumSquares(const float* x, int64_t n, float* out);
void countNonFinite(const void* x, DType type, int64_t n, float* out);
// norm.cc
void rmsNorm(const float* x, const float* w, float eps, float* y, float* rstd, int64_t n, int64_t c);
void rmsNormBackward(const float* x, const float* w, const float* rstd, const float* dy, float* dx, bool accumulate,
                     float* dw, int64_t n, int64_t c);
// rope.cc
void rope(const float* x, const int32_t* positions, const float* cosTable, const float* sinTable, float direction,
          float* y, int64_t t, int64_t heads, int64_t headDim,
          int64_t half);
// attention.cc, attention-backward.cc
void attention(const AttentionArgs& a);
void attentionBackward(const AttentionBackwardArgs& a);
// gated.cc
void gatedActivation(Activation kind, const float* gate, const float* up, float* y, int64_t n);
void gatedActivationBackward(Activation kind, const float* gate, const float* up, const float* dy, float* dGate,
                             float* dUp, int64_t n);
// cross-entropy.cc
void crossEntropy(const float* logits, const int32_t* targets, float* loss, float* dLogits, float gradScale, int64_t n,
                  int64_t v);
// adamw.cc
void adamw(const AdamwArgs& a);
void adamw8bit(const Adamw8bitArgs& a);        // adamw-8bit.cc
void quantize4bit(const Quantize4bitArgs& a);  // quantize.cc

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
