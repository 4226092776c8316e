// sum, sumSquares, countNonFinite, and what is made of sums before an update (clipFactor). Sums are of doubles, per chunk of fixed size and then over chunks in order, so
// they do not depend on the number of threads. Not here: row-wise reductions (norm.cc, cross-entropy.cc).
#include <cmath>

#include "../simd.h"
#include "../threads.h"
#include "declarations.h"
#include "workspace.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kChunk = 32768;
#if defined(__AVX512F__)
constexpr int kSums = 8;  // doubles in a vector
#elif defined(__AVX2__)
constexpr int kSums = 4;
#else
constexpr int kSums = 2;
#endif

typedef double DoubleVec __attribute__((vector_size(kSums * 8)));
typedef float FloatVec __attribute__((vector_size(kSums * 4)));

/** Sum of map(x) over n elements, in four vectors of doubles to hide the latency of additions. */
template <class Map>
LOWRANK_INLINE double sumChunk(const float* x, int64_t n, const Map& map) {
  DoubleVec sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kSums <= n; i += 4 * kSums) {
    for (int k = 0; k < 4; k++) {
      FloatVec v;
      std::memcpy(&v, x + i + k * kSums, sizeof v);
      sums[k] += map(__builtin_convertvector(v, DoubleVec));
    }
  }
  for (; i < n; i++) sums[0][i % kSums] += map(static_cast<double>(x[i]));
  sums[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double total = 0;
  for (int lane = 0; lane < kSums; lane++) total += sums[0][lane];
  return total;
}

/** The sum over chunks of chunk(begin, length), in order. */
template <class OfChunk>
LOWRANK_INLINE double sumChunks(int64_t n, const OfChunk& ofChunk) {
  if (n <= kChunk) return ofChunk(0, n);
  const int64_t chunks = divideUp(n, kChunk);
  Workspace<double> partial(chunks);
  parallelTasks(chunks, [&](int64_t chunk, int) {
    const int64_t begin = chunk * kChunk;
    partial[chunk] = ofChunk(begin, smaller(kChunk, n - begin));
  });
  double total = 0;
  for (int64_t chunk = 0; chunk < chunks; chunk++) total += partial[chunk];
  return total;
}

/** Elements whose exponent bits are all ones. */
template <class Bits>
int64_t countExponent(const Bits* x, int64_t n, Bits exponent) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++) count += (x[i] & exponent) == exponent;
  return count;
}

}  // namespace

void sum(const float* x, int64_t n, float* out) {
  *out = static_cast<float>(sumChunks(n, [&](int64_t begin, int64_t length) {
    return sumChunk(x + begin, length, [](auto v) { return v; });
  }));
}

void sumSquares(const float* x, int64_t n, float* out) {
  *out = static_cast<float>(sumChunks(n, [&](int64_t begin, int64_t length) {
    return sumChunk(x + begin, length, [](auto v) { return v * v; });
  }));
}

/** torch.nn.utils.clip_grad_norm_, and what holds an update up. */
void clipFactor(const float* sumSquares, const float* losses, int64_t n, double maxNorm, float* factor) {
  const auto isFinite = [](float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7f800000u) != 0x7f800000u;
  };
  bool finite = isFinite(*sumSquares);
  for (int64_t i = 0; i < n; i++) finite = finite && isFinite(losses[i]);
  double clip = 1;
  if (!finite || *factor < 0) {
    clip = -1;
  } else if (maxNorm > 0) {
    clip = maxNorm / (sqrt(static_cast<double>(*sumSquares)) + 1e-6);
    if (clip > 1) clip = 1;
  }
  *factor = static_cast<float>(clip);
}

void countNonFinite(const void* x, DType type, int64_t n, float* out) {
  *out = static_cast<float>(sumChunks(n, [&](int64_t begin, int64_t length) -> double {
    if (type == DType::F32) {
      return static_cast<double>(countExponent(static_cast<const uint32_t*>(x) + begin, length, 0x7f800000u));
    }
    const auto exponent = static_cast<uint16_t>(type == DType::BF16 ? 0x7f80 : 0x7c00);
    return static_cast<double>(countExponent(static_cast<const uint16_t*>(x) + begin, length, exponent));
  }));
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
