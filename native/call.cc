// Decodes the arguments of each kernel. The order of arguments is that of the matching method in
// src/backend/cpu.ts; nothing is checked here beyond the id, as shapes were checked there.
#include "call.h"

#include <cstddef>
#include <new>
#include <vector>

namespace lowrank {
namespace {

/** Reads arguments one after the other. Addresses and sizes are below 2^53, so a double holds them exactly. */
class Reader {
 public:
  explicit Reader(const double* at) : at_(at) {}
  double number() { return *at_++; }
  float single() { return static_cast<float>(*at_++); }
  int64_t size() { return static_cast<int64_t>(*at_++); }
  bool flag() { return *at_++ != 0; }
  template <typename T>
  T* pointer() {
    return reinterpret_cast<T*>(static_cast<uintptr_t>(*at_++));
  }
  float* f32() { return pointer<float>(); }
  int32_t* i32() { return pointer<int32_t>(); }
  void* any() { return pointer<void>(); }
  template <typename Enum>
  Enum choice() {
    return static_cast<Enum>(static_cast<int>(*at_++));
  }

 private:
  const double* at_;
};

Weight readWeight(Reader& in) {
  Weight weight{};
  weight.kind = in.choice<Weight::Kind>();
  weight.rows = in.size();
  weight.cols = in.size();
  weight.data = in.any();
  weight.codebook = in.f32();
  weight.blockSize = in.size();
  weight.absmax = in.any();
  weight.nestedCodebook = in.f32();
  weight.nestedAbsmax = in.f32();
  weight.nestedBlockSize = in.size();
  weight.nestedOffset = in.single();
  return weight;
}

Adapter readAdapter(Reader& in) {
  Adapter adapter{};
  adapter.rank = in.size();
  adapter.a = in.f32();
  adapter.b = in.f32();
  adapter.scale = in.single();
  adapter.u = in.f32();
  adapter.dA = in.f32();
  adapter.dB = in.f32();
  adapter.dropout.threshold = static_cast<uint32_t>(in.number());
  adapter.dropout.keptScale = in.single();
  adapter.dropout.seed = static_cast<uint64_t>(in.number());
  adapter.dropout.stream = static_cast<uint32_t>(in.number());
  return adapter;
}

void linear(const LinearTable& table, Reader& in) {
  const auto precision = in.choice<Precision>();
  const float* x = in.f32();
  const int64_t t = in.size(), width = in.size(), count = in.size();
  std::vector<LinearPart> parts(static_cast<size_t>(count));
  for (LinearPart& part : parts) {
    part.weight = readWeight(in);
    part.adapter = readAdapter(in);
    part.bias = in.f32();
    part.residual = in.f32();
    part.y = in.f32();
  }
  table.linear(precision, x, t, width, parts.data(), count);
}

void linearBackward(const LinearTable& table, Reader& in) {
  const auto precision = in.choice<Precision>();
  const float* x = in.f32();
  const int64_t t = in.size(), width = in.size(), count = in.size();
  float* dx = in.f32();
  const bool accumulate = in.flag();
  std::vector<LinearGradPart> parts(static_cast<size_t>(count));
  for (LinearGradPart& part : parts) {
    part.weight = readWeight(in);
    part.adapter = readAdapter(in);
    part.dy = in.f32();
    part.dWeight = in.f32();
    part.dBias = in.f32();
  }
  table.linearBackward(precision, x, t, width, parts.data(), count, dx, accumulate);
}

AttentionArgs readAttention(Reader& in) {
  AttentionArgs a{};
  a.q = in.f32();
  a.k = in.f32();
  a.v = in.f32();
  a.segments = in.pointer<Segment>();
  a.segmentCount = in.size();
  a.tq = in.size();
  a.heads = in.size();
  a.kvHeads = in.size();
  a.headDim = in.size();
  a.scale = in.single();
  a.window = in.size();
  a.out = in.f32();
  a.lse = in.f32();
  return a;
}

template <typename Args>
void readAdamwConstants(Reader& in, Args& a) {
  a.learningRate = in.number();
  a.beta1 = in.number();
  a.beta2 = in.number();
  a.epsilon = in.number();
  a.weightDecay = in.number();
  a.step = in.size();
  a.clipSumSquares = in.f32();
  a.maxNorm = in.number();
}

AdamwArgs readAdamw(Reader& in) {
  AdamwArgs a{};
  a.params = in.f32();
  a.grads = in.f32();
  a.m = in.f32();
  a.v = in.f32();
  a.count = in.size();
  readAdamwConstants(in, a);
  return a;
}

Adamw8bitArgs readAdamw8bit(Reader& in) {
  Adamw8bitArgs a{};
  a.params = in.f32();
  a.grads = in.f32();
  a.mCodes = in.pointer<uint8_t>();
  a.vCodes = in.pointer<uint8_t>();
  a.mAbsmax = in.f32();
  a.vAbsmax = in.f32();
  a.mMap = in.f32();
  a.vMap = in.f32();
  a.count = in.size();
  readAdamwConstants(in, a);
  return a;
}

Quantize4bitArgs readQuantize4bit(Reader& in) {
  Quantize4bitArgs a{};
  a.x = in.any();
  a.type = in.choice<DType>();
  a.count = in.size();
  a.blockSize = in.size();
  a.codes = in.pointer<uint8_t>();
  a.absmax = in.f32();
  for (float& threshold : a.thresholds) threshold = in.single();
  for (uint8_t& code : a.codeByRank) code = static_cast<uint8_t>(in.number());
  return a;
}

enum Id {
  kLinear,
  kLinearBackward,
  kFill,
  kCast,
  kAddInPlace,
  kScaleInPlace,
  kFillUniform,
  kGatherRows,
  kScatterRows,
  kSum,
  kSumSquares,
  kCountNonFinite,
  kEmbedding,
  kEmbeddingBackward,
  kRmsNorm,
  kRmsNormBackward,
  kRope,
  kAttention,
  kAttentionBackward,
  kGatedActivation,
  kGatedActivationBackward,
  kCrossEntropy,
  kAdamw,
  kAdamw8bit,
  kQuantize4bit,
  kIdCount,
};

const char* const kNames[kIdCount + 1] = {
    "linear",       "linearBackward",    "fill",      "cast",
    "addInPlace",   "scaleInPlace",      "fillUniform", "gatherRows",
    "scatterRows",  "sum",               "sumSquares", "countNonFinite",
    "embedding",    "embeddingBackward", "rmsNorm",   "rmsNormBackward",
    "rope",         "attention",         "attentionBackward", "gatedActivation",
    "gatedActivationBackward", "crossEntropy", "adamw", "adamw8bit",
    "quantize4bit", nullptr,
};

void callElementwise(const KernelTable& k, int id, Reader& in) {
  // Reads in the order of declaration: C++ leaves the order of function arguments open.
  switch (id) {
    case kFill: {
      auto* y = in.f32();
      const auto n = in.size();
      return k.fill(y, n, in.single());
    }
    case kCast: {
      auto* x = in.any();
      const auto from = in.choice<DType>();
      auto* y = in.any();
      const auto to = in.choice<DType>();
      return k.cast(x, from, y, to, in.size());
    }
    case kAddInPlace: {
      auto* x = in.f32();
      auto* y = in.f32();
      return k.addInPlace(x, y, in.size());
    }
    case kScaleInPlace: {
      auto* y = in.f32();
      const auto n = in.size();
      return k.scaleInPlace(y, n, in.single());
    }
    case kFillUniform: {
      auto* y = in.any();
      const auto type = in.choice<DType>();
      const auto n = in.size();
      const auto bound = in.single();
      const auto seed = static_cast<uint64_t>(in.number());
      return k.fillUniform(y, type, n, bound, seed, static_cast<uint32_t>(in.number()));
    }
    case kGatherRows:
    case kScatterRows: {
      auto* x = in.f32();
      auto* index = in.i32();
      auto* y = in.f32();
      const auto m = in.size();
      return (id == kGatherRows ? k.gatherRows : k.scatterRows)(x, index, y, m, in.size());
    }
    case kSum:
    case kSumSquares: {
      auto* x = in.f32();
      const auto n = in.size();
      return (id == kSum ? k.sum : k.sumSquares)(x, n, in.f32());
    }
    case kCountNonFinite: {
      auto* x = in.any();
      const auto type = in.choice<DType>();
      const auto n = in.size();
      return k.countNonFinite(x, type, n, in.f32());
    }
    case kEmbedding: {
      auto* ids = in.i32();
      auto* table = in.any();
      const auto type = in.choice<DType>();
      auto* y = in.f32();
      const auto t = in.size();
      return k.embedding(ids, table, type, y, t, in.size());
    }
    case kEmbeddingBackward: {
      auto* ids = in.i32();
      auto* dy = in.f32();
      auto* dTable = in.f32();
      const auto t = in.size(), c = in.size();
      return k.embeddingBackward(ids, dy, dTable, t, c, in.size());
    }
    case kGatedActivation: {
      const auto kind = in.choice<Activation>();
      auto* gate = in.f32();
      auto* up = in.f32();
      auto* y = in.f32();
      return k.gatedActivation(kind, gate, up, y, in.size());
    }
    case kGatedActivationBackward: {
      const auto kind = in.choice<Activation>();
      auto* gate = in.f32();
      auto* up = in.f32();
      auto* dy = in.f32();
      auto* dGate = in.f32();
      auto* dUp = in.f32();
      return k.gatedActivationBackward(kind, gate, up, dy, dGate, dUp, in.size());
    }
    case kAdamw:
      return k.adamw(readAdamw(in));
    case kAdamw8bit:
      return k.adamw8bit(readAdamw8bit(in));
    case kQuantize4bit:
      return k.quantize4bit(readQuantize4bit(in));
  }
}

void callRowwise(const KernelTable& k, const Bf16AttentionTable* bf16, int id, Reader& in) {
  switch (id) {
    case kRmsNorm: {
      auto* x = in.f32();
      auto* w = in.f32();
      const auto eps = in.single();
      auto* y = in.f32();
      auto* rstd = in.f32();
      const auto n = in.size();
      return k.rmsNorm(x, w, eps, y, rstd, n, in.size());
    }
    case kRmsNormBackward: {
      auto* x = in.f32();
      auto* w = in.f32();
      auto* rstd = in.f32();
      auto* dy = in.f32();
      auto* dx = in.f32();
      const auto accumulate = in.flag();
      auto* dw = in.f32();
      const auto n = in.size();
      return k.rmsNormBackward(x, w, rstd, dy, dx, accumulate, dw, n, in.size());
    }
    case kRope: {
      auto* x = in.f32();
      auto* positions = in.i32();
      auto* cosTable = in.f32();
      auto* sinTable = in.f32();
      const auto direction = in.single();
      auto* y = in.f32();
      const auto t = in.size(), heads = in.size(), headDim = in.size();
      return k.rope(x, positions, cosTable, sinTable, direction, y, t, heads, headDim, in.size());
    }
    case kAttention: {
      const auto precision = in.choice<Precision>();
      const AttentionArgs a = readAttention(in);
      if (precision == Precision::BF16 && bf16) return bf16->attention(a, k);
      return k.attention(a);
    }
    case kAttentionBackward: {
      const auto precision = in.choice<Precision>();
      AttentionBackwardArgs a{};
      a.f = readAttention(in);
      a.dOut = in.f32();
      a.dq = in.f32();
      a.dk = in.f32();
      a.dv = in.f32();
      if (precision == Precision::BF16 && bf16) return bf16->attentionBackward(a, k);
      return k.attentionBackward(a);
    }
    case kCrossEntropy: {
      auto* logits = in.f32();
      auto* targets = in.i32();
      auto* loss = in.f32();
      auto* dLogits = in.f32();
      const auto gradScale = in.single();
      const auto n = in.size();
      return k.crossEntropy(logits, targets, loss, dLogits, gradScale, n, in.size());
    }
  }
}

/** False where this build has no such kernel. */
bool call(const Isa& isa, int id, Reader& in) {
  if (id == kLinear || id == kLinearBackward) {
    (id == kLinear ? linear : linearBackward)(*isa.linear, in);
    return true;
  }
  if (!isa.kernels) return false;
  switch (id) {
    case kRmsNorm:
    case kRmsNormBackward:
    case kRope:
    case kAttention:
    case kAttentionBackward:
    case kCrossEntropy:
      callRowwise(*isa.kernels, isa.bf16Attention, id, in);
      return true;
    default:
      callElementwise(*isa.kernels, id, in);
      return true;
  }
}

}  // namespace

const char* const* kernelNames() { return kNames; }

Outcome runCalls(const Isa& isa, const double* calls, int64_t length, const char*& kernel) {
  constexpr int64_t kHead = 2;
  for (int64_t at = 0; at < length;) {
    const int id = static_cast<int>(calls[at]);
    kernel = "";
    if (id < 0 || id >= kIdCount) return Outcome::Invalid;
    kernel = kNames[id];
    Reader in(calls + at + kHead);
    try {
      if (!call(isa, id, in)) return Outcome::Invalid;
    } catch (const std::bad_alloc&) {
      return Outcome::OutOfMemory;
    }
    at += kHead + static_cast<int64_t>(calls[at + 1]);
  }
  return Outcome::Done;
}

}  // namespace lowrank
