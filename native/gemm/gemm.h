// The matrix products of the native engine: what linear.cc of one instruction set offers, over raw pointers.
// Shapes and meanings are those of `linear` and `linearBackward` in src/backend/backend.ts. Sizes are int64_t;
// activations, gradients, adapters and biases f32. Not here: element-wise kernels (../kernels.h).
#pragma once
#include <cstdint>

namespace lowrank {

/** Arithmetic of products: f32 throughout, or bf16 inputs with f32 accumulation. */
enum class Precision : int { F32 = 0, BF16 = 1 };

/** Of ggml's blocks. */
struct BlockSize {
  int64_t elements, bytes;
};

/** A stored weight [rows, cols], row-major. */
struct Weight {
  // From Q4_0 on: ggml's blocks, in rows of whole ones (blocks.h); the numbers are src/backend/cpu/product-writer.ts's.
  enum class Kind : int { F32, BF16, Quantized, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Mxfp4, Q4_K, Q5_K, Q6_K };
  Kind kind;
  int64_t rows, cols;
  const void* data;  // f32, bf16, or codes: two elements a byte, the even one in the high nibble
  // Quantized: element i = codebook[code_i] * scale(i / blockSize).
  const float* codebook;  // [16]
  int64_t blockSize;
  const void* absmax;           // f32 [blocks]; u8 [blocks] when nestedCodebook is given
  const float* nestedCodebook;  // [256] or null
  const float* nestedAbsmax;
  int64_t nestedBlockSize;
  float nestedOffset;

  float scale(int64_t block) const {
    if (!nestedCodebook) return static_cast<const float*>(absmax)[block];
    return nestedCodebook[static_cast<const uint8_t*>(absmax)[block]] * nestedAbsmax[block / nestedBlockSize] +
           nestedOffset;
  }
};

constexpr bool isBlocks(Weight::Kind kind) { return kind >= Weight::Kind::Q4_0; }

constexpr BlockSize blockSizeOf(Weight::Kind kind) {
  switch (kind) {
    case Weight::Kind::Q4_0: return {32, 18};
    case Weight::Kind::Q4_1: return {32, 20};
    case Weight::Kind::Q5_0: return {32, 22};
    case Weight::Kind::Q5_1: return {32, 24};
    case Weight::Kind::Q8_0: return {32, 34};
    case Weight::Kind::Mxfp4: return {32, 17};
    case Weight::Kind::Q4_K: return {256, 144};
    case Weight::Kind::Q5_K: return {256, 176};
    case Weight::Kind::Q6_K: return {256, 210};
    default: return {1, 0};
  }
}

/** Element i of x is kept iff its random word >= threshold, and then scaled by keptScale. threshold 0: no dropout. */
struct Dropout {
  uint32_t threshold;
  float keptScale;
  uint64_t seed;
  uint32_t stream;
};

struct Adapter {
  int64_t rank;  // 0: no adapter
  const float *a, *b;  // [rank, in], [out, rank]
  float scale;
  Dropout dropout;
  float* u;        // [T, rank]: written forward, read backward
  float *dA, *dB;  // backward, +=; may be null
};

struct LinearPart {
  Weight weight;
  const float *bias, *residual;  // may be null; residual may be y
  Adapter adapter;
  float* y;
};

struct LinearGradPart {
  Weight weight;
  const float* dy;
  Adapter adapter;
  float *dWeight, *dBias;  // +=; may be null
};

/** As many weights [rows, cols] of one form, one behind the other: expert e's is at(e). */
struct WeightStack {
  Weight first;          // nestedOffset of a nested one: offsets[e]
  int64_t experts;
  const float* offsets;  // [experts]; null unless nested

  Weight at(int64_t e) const {
    Weight w = first;
    const int64_t size = w.rows * w.cols;
    const auto* data = static_cast<const uint8_t*>(w.data);
    switch (w.kind) {
      case Weight::Kind::F32: w.data = data + e * size * 4; break;
      case Weight::Kind::BF16: w.data = data + e * size * 2; break;
      case Weight::Kind::Quantized: {
        const int64_t blocks = (size + w.blockSize - 1) / w.blockSize;
        w.data = data + e * ((size + 1) / 2);
        w.absmax = static_cast<const uint8_t*>(w.absmax) + e * blocks * (w.nestedCodebook ? 1 : 4);
        if (!w.nestedCodebook) break;
        w.nestedAbsmax += e * ((blocks + w.nestedBlockSize - 1) / w.nestedBlockSize);
        w.nestedOffset = offsets[e];
        break;
      }
      default: {
        const BlockSize block = blockSizeOf(w.kind);
        w.data = data + e * (size / block.elements) * block.bytes;
      }
    }
    return w;
  }
};

/** Rows [offsets[e], offsets[e + 1]) are expert e's; row i of the input is x[index[i]], or x[i] without an index. */
struct GroupedRows {
  int64_t count;           // of all experts together
  const int32_t* offsets;  // [experts + 1]
  const int32_t* index;    // [count] or null
  bool few;                // of a pass of few tokens: every expert's rows go the way of few rows
};

/** A linear layer of each expert. Its adapter's a is [experts * rank, in], b [experts, out, rank], u [count, rank]. */
struct GroupedPart {
  WeightStack weights;
  const float* bias;  // [experts, out] or null
  Adapter adapter;
  float* y;           // forward; [count, out]
  const float* dy;    // backward; [count, out]
  float *dWeight, *dBias, *dx;  // backward; the first two +=, dx [count, in] =; each may be null
};

struct LinearTable {
  const char* isa;
  /** Whether Precision::BF16 is faster than F32 here: only by instructions of its own, and not on every processor. */
  bool (*bf16IsFaster)();
  void (*linear)(Precision precision, const float* x, int64_t t, int64_t in, const LinearPart* parts, int64_t count);
  /** x may be null when no part asks for dA or dWeight; dx may be null. */
  void (*linearBackward)(Precision precision, const float* x, int64_t t, int64_t in, const LinearGradPart* parts,
                         int64_t count, float* dx, bool accumulate);
  /** The linear layers of experts, each on its own rows. */
  void (*grouped)(Precision precision, const float* x, const GroupedRows& rows, const GroupedPart& part);
  /** x may be null when neither dA nor dWeight is asked for. */
  void (*groupedBackward)(Precision precision, const float* x, const GroupedRows& rows, const GroupedPart& part);
  /** Multiply-adds from registers alone on the calling thread for about `seconds`; returns GFLOP/s. */
  double (*peak)(Precision precision, double seconds);
};

/** One of these is compiled per instruction set. */
const LinearTable* linearTablePortable();
const LinearTable* linearTableAvx2();
const LinearTable* linearTableAvx512();
const LinearTable* linearTableAvx512Bf16();
const LinearTable* linearTableAmx();
const LinearTable* linearTableNeon();

}  // namespace lowrank
