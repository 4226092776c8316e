// linear for a few rows (generation): every weight is read once and multiplied as it passes, in f32 whatever the
// precision, since reading it is what takes the time.
#include "engines.h"
#include "pack.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

inline Vf loadWide(const float* p) { return load(p); }
inline Vf loadWide(const uint16_t* p) {
#if defined(__AVX512F__)
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return reinterpret_cast<Vf>(_mm512_slli_epi32(words, 16));
#elif defined(__AVX2__)
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return reinterpret_cast<Vf>(_mm256_slli_epi32(words, 16));
#else
  Vf v;
  for (int i = 0; i < kLanes; i++) v[i] = fromBf16(p[i]);
  return v;
#endif
}
inline float widen(float value) { return value; }
inline float widen(uint16_t bits) { return fromBf16(bits); }

/** sums[t] += w . x[t] over n elements; x rows are `stride` apart. */
template <int T, typename Element>
void dots(const Element* w, const float* x, int64_t stride, int64_t n, float* sums) {
  constexpr int kChains = T == 1 ? 4 : T == 2 ? 2 : 1;
  Vf partial[T][kChains] = {};
  int64_t i = 0;
  for (; i + kLanes * kChains <= n; i += kLanes * kChains) {
    LOWRANK_UNROLL
    for (int c = 0; c < kChains; c++) {
      const Vf weight = loadWide(w + i + c * kLanes);
      LOWRANK_UNROLL
      for (int t = 0; t < T; t++) partial[t][c] += weight * load(x + t * stride + i + c * kLanes);
    }
  }
  for (int t = 0; t < T; t++) {
    Vf total = partial[t][0];
    for (int c = 1; c < kChains; c++) total += partial[t][c];
    float sum = sumLanes(total);
    for (int64_t k = i; k < n; k++) sum += widen(w[k]) * x[t * stride + k];
    sums[t] += sum;
  }
}

template <typename Element>
void dotsOf(int64_t t, const Element* w, const float* x, int64_t stride, int64_t n, float* sums) {
  switch (t) {
    case 1: return dots<1>(w, x, stride, n, sums);
    case 2: return dots<2>(w, x, stride, n, sums);
    case 3: return dots<3>(w, x, stride, n, sums);
    case 4: return dots<4>(w, x, stride, n, sums);
    case 5: return dots<5>(w, x, stride, n, sums);
    case 6: return dots<6>(w, x, stride, n, sums);
    case 7: return dots<7>(w, x, stride, n, sums);
    default: return dots<8>(w, x, stride, n, sums);
  }
}

/** sums[t] = row `row` of the weight . x[t]. */
void rowDots(const Weight& w, int64_t row, const float* x, int64_t t, float* sums) {
  std::fill(sums, sums + t, 0.0f);
  const int64_t first = row * w.cols;
  if (w.kind == Weight::Kind::F32) return dotsOf(t, static_cast<const float*>(w.data) + first, x, w.cols, w.cols, sums);
  if (w.kind == Weight::Kind::BF16) {
    return dotsOf(t, static_cast<const uint16_t*>(w.data) + first, x, w.cols, w.cols, sums);
  }
  constexpr int64_t kPiece = 1024;
  alignas(64) float piece[kPiece];
  for (int64_t k = 0; k < w.cols; k += kPiece) {
    const int64_t n = std::min(kPiece, w.cols - k);
    decodeRow<F32>(w, row, k, n, piece);
    dotsOf(t, piece, x + k, w.cols, n, sums);
  }
}

/** Calls body(row, sums) for every row of the weight, rows split among the threads. */
template <typename Body>
void forRows(const Weight& w, const float* x, int64_t t, const Body& body) {
  constexpr int64_t kWorthAThread = 32768;
  parallelRange(w.rows, std::max<int64_t>(1, kWorthAThread / w.cols), [&](int64_t begin, int64_t end, int) {
    float sums[kMostVectorRows];
    for (int64_t row = begin; row < end; row++) {
      rowDots(w, row, x, t, sums);
      body(row, sums);
    }
  });
}

void down(const float* x, int64_t t, int64_t in, const Adapter& adapter) {
  const Weight a = matrixOf(adapter.a, adapter.rank, in);
  const auto keep = [&](int64_t row, const float* sums) {
    for (int64_t i = 0; i < t; i++) adapter.u[i * adapter.rank + row] = sums[i];
  };
  if (adapter.dropout.threshold == 0) return forRows(a, x, t, keep);
  const Scratch masked(t * in * 4);
  applyDropout<false>(x, 0, t * in, adapter.dropout, masked.as<float>());
  forRows(a, masked.as<float>(), t, keep);
}

}  // namespace

void linearVectors(const float* x, int64_t t, int64_t in, const LinearPart* parts, int64_t count) {
  for (int64_t p = 0; p < count; p++) {
    const LinearPart& part = parts[p];
    const Adapter& adapter = part.adapter;
    const int64_t out = part.weight.rows, rank = adapter.rank;
    if (rank > 0) down(x, t, in, adapter);
    forRows(part.weight, x, t, [&](int64_t row, const float* sums) {
      for (int64_t i = 0; i < t; i++) {
        float value = sums[i];
        if (part.bias) value += part.bias[row];
        if (rank > 0) {
          float up = 0;
          for (int64_t r = 0; r < rank; r++) up += adapter.u[i * rank + r] * adapter.b[row * rank + r];
          value += adapter.scale * up;
        }
        if (part.residual) value += part.residual[i * out + row];
        part.y[i * out + row] = value;
      }
    });
  }
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
