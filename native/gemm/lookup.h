// Codes of 4-bit weights turned into numbers in registers: codebook[code] * scale, rounded as products round weights, many
// at a time in the way this instruction set looks up 16 entries. What has no such way (plain SSE2) has no Lookup and
// decodes element by element (rows.h). Values come kElements of a row at a time, those at even places of each kWidth before
// those at odd ones, because that is how the halves of bytes lie: x is brought into the same order (evenFirst).
#pragma once
#include "scales.h"
#include "tile-dots.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** Puts the elements of each `width` at even places before those at odd ones: as high and low halves of codes come. */
template <typename T>
inline void evenFirst(const T* from, int64_t n, int64_t width, T* to) {
  for (int64_t i = 0; i < n; i += width) {
    for (int64_t k = 0; k < width / 2; k++) {
      to[i + k] = from[i + 2 * k];
      to[i + width / 2 + k] = from[i + 2 * k + 1];
    }
  }
}

#if defined(__AVX512F__)

/** f32. */
class FloatLookup {
 public:
  using Dots = FloatDots;
  static constexpr int kElements = 32, kVectors = 2, kWidth = 32;

  explicit FloatLookup(const float* codebook) : codebook_(_mm512_loadu_ps(codebook)) {}
  void scaleBy(float scale) { table_ = _mm512_mul_ps(codebook_, _mm512_set1_ps(scale)); }
  void read(const uint8_t* codes, Vf (&values)[kVectors]) const {
    // vpermps looks at the low four bits of each lane alone.
    const __m512i words = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    values[0] = reinterpret_cast<Vf>(_mm512_permutexvar_ps(_mm512_srli_epi32(words, 4), table_));
    values[1] = reinterpret_cast<Vf>(_mm512_permutexvar_ps(words, table_));
  }

 private:
  __m512 codebook_, table_;
};
#define LOWRANK_FLOAT_LOOKUP

#if defined(__AVX512BF16__)
/** bf16. */
class HalfLookup {
 public:
  using Dots = HalfDots;
  static constexpr int kElements = 64, kVectors = 2, kWidth = 64;

  explicit HalfLookup(const float* codebook) : codebook_(_mm512_loadu_ps(codebook)) {}
  void scaleBy(float scale) {
    const __m512 scaled = _mm512_mul_ps(codebook_, _mm512_set1_ps(scale));
    table_ = (__m512i)_mm512_cvtne2ps_pbh(scaled, scaled);  // 32 entries: bit 4 of an index does not matter
  }
  void read(const uint8_t* codes, __m512bh (&values)[kVectors]) const {
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    values[0] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table_);
    values[1] = (__m512bh)_mm512_permutexvar_epi16(words, table_);
  }

 private:
  __m512 codebook_;
  __m512i table_;
};
#define LOWRANK_HALF_LOOKUP
#endif

#elif defined(__AVX2__)

/** f32: each of its four bytes is looked up by itself (vpshufb), then they are put together. */
class FloatLookup {
 public:
  using Dots = FloatDots;
  static constexpr int kElements = 32, kVectors = 4, kWidth = 8;

  explicit FloatLookup(const float* codebook) {
    alignas(16) uint8_t bytes[4][16];
    for (int i = 0; i < 16; i++) {
      uint32_t word;
      std::memcpy(&word, codebook + i, 4);
      for (int b = 0; b < 4; b++) bytes[b][i] = static_cast<uint8_t>(word >> 8 * b);
    }
    for (int b = 0; b < 4; b++) {
      planes_[b] = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes[b])));
    }
  }
  void scaleBy(float scale) { scale_ = _mm256_set1_ps(scale); }
  void read(const uint8_t* codes, Vf (&values)[kVectors]) const {
    // High halves beside low ones: unpacking within halves makes eights of them, even places first.
    const __m256i packed = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    const __m256i moved = _mm256_srlv_epi32(packed, _mm256_set_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    const __m256i index = _mm256_and_si256(moved, _mm256_set1_epi8(15));
    __m256i bytes[4];
    LOWRANK_UNROLL
    for (int b = 0; b < 4; b++) bytes[b] = _mm256_shuffle_epi8(planes_[b], index);
    const __m256i pairs[4] = {
        _mm256_unpacklo_epi8(bytes[0], bytes[1]), _mm256_unpackhi_epi8(bytes[0], bytes[1]),
        _mm256_unpacklo_epi8(bytes[2], bytes[3]), _mm256_unpackhi_epi8(bytes[2], bytes[3])};
    const __m256i words[4] = {
        _mm256_unpacklo_epi16(pairs[0], pairs[2]), _mm256_unpackhi_epi16(pairs[0], pairs[2]),
        _mm256_unpacklo_epi16(pairs[1], pairs[3]), _mm256_unpackhi_epi16(pairs[1], pairs[3])};
    LOWRANK_UNROLL
    for (int v = 0; v < 4; v++) {
      values[v] = reinterpret_cast<Vf>(_mm256_mul_ps(_mm256_castsi256_ps(words[v]), scale_));
    }
  }

 private:
  __m256i planes_[4];
  __m256 scale_;
};
#define LOWRANK_FLOAT_LOOKUP

#elif defined(__aarch64__)

/** f32: each of its four bytes is looked up by itself (TBL), then they are put together. */
class FloatLookup {
 public:
  using Dots = FloatDots;
  static constexpr int kElements = 32, kVectors = 8, kWidth = 32;

  explicit FloatLookup(const float* codebook) : planes_(vld4q_u8(reinterpret_cast<const uint8_t*>(codebook))) {}
  void scaleBy(float scale) { scale_ = vdupq_n_f32(scale); }
  void read(const uint8_t* codes, Vf (&values)[kVectors]) const {
    const uint8x16_t packed = vld1q_u8(codes);
    const uint8x16_t even = vshrq_n_u8(packed, 4), odd = vandq_u8(packed, vdupq_n_u8(15));
    const uint8x16_t index[2] = {even, odd};
    LOWRANK_UNROLL
    for (int half = 0; half < 2; half++) {
      uint8x16_t bytes[4];
      LOWRANK_UNROLL
      for (int b = 0; b < 4; b++) bytes[b] = vqtbl1q_u8(planes_.val[b], index[half]);
      const uint16x8_t pairs[4] = {
          vreinterpretq_u16_u8(vzip1q_u8(bytes[0], bytes[1])), vreinterpretq_u16_u8(vzip2q_u8(bytes[0], bytes[1])),
          vreinterpretq_u16_u8(vzip1q_u8(bytes[2], bytes[3])), vreinterpretq_u16_u8(vzip2q_u8(bytes[2], bytes[3]))};
      const uint16x8_t words[4] = {vzip1q_u16(pairs[0], pairs[2]), vzip2q_u16(pairs[0], pairs[2]),
                                   vzip1q_u16(pairs[1], pairs[3]), vzip2q_u16(pairs[1], pairs[3])};
      LOWRANK_UNROLL
      for (int v = 0; v < 4; v++) {
        values[half * 4 + v] = reinterpret_cast<Vf>(vmulq_f32(vreinterpretq_f32_u16(words[v]), scale_));
      }
    }
  }

 private:
  uint8x16x4_t planes_;
  float32x4_t scale_;
};
#define LOWRANK_FLOAT_LOOKUP

#endif

/** Whether a Lookup reads the rows of this weight: no vector of its values may hold two blocks' or two rows'. */
template <typename Lookup>
inline bool looksUp(const Weight& w) {
  return w.kind == Weight::Kind::Quantized && w.blockSize % Lookup::kElements == 0 && w.cols % w.blockSize == 0;
}

/** Bytes of codes asked for ahead: x and codes together outgrow what the processor itself foresees. */
constexpr int64_t kReadAhead = 1024;

/** Blocks of a row that are taken together at most. */
constexpr int64_t kMostBlocks = 16;

/**
 * Calls body(i) for every kElements of elements [begin, end) of a row, its lookup scaled for them. begin and end are where
 * blocks begin or end, or inside one where it is longer than end - begin.
 */
template <typename Lookup, typename Body>
inline __attribute__((always_inline)) void eachCoded(Lookup& lookup, const Weight& w, const Scales& scales, int64_t row,
                                                     int64_t begin, int64_t end, const Body& body) {
  float room[kMostBlocks];
  const int64_t size = w.blockSize, first = row * (w.cols / size);
  if (size == Lookup::kElements) {  // as nearly always where 64 codes are looked up at once
    for (int64_t block = begin / size, last = end / size; block < last; block += kMostBlocks) {
      const int64_t count = std::min(kMostBlocks, last - block);
      const float* here = scales.read(first + block, count, room);
      for (int64_t b = 0; b < count; b++) {
        lookup.scaleBy(here[b]);
        body((block + b) * Lookup::kElements);
      }
    }
    return;
  }
  for (int64_t block = begin / size, at = begin; at < end; block += kMostBlocks) {
    const int64_t count = std::min(kMostBlocks, (end - block * size + size - 1) / size);
    const float* here = scales.read(first + block, count, room);
    for (int64_t b = 0; b < count; b++) {
      lookup.scaleBy(here[b]);
      const int64_t stop = std::min(end, (block + b + 1) * size);
      for (; at < stop; at += Lookup::kElements) body(at);
    }
  }
}

/** Elements [begin, end) of a row as the numbers that Dots multiplies by, in the order of Lookup. */
template <typename Dots, typename Lookup>
inline void lookUpRow(Lookup lookup, const Weight& w, const Scales& scales, int64_t row, int64_t begin, int64_t end,
                      typename Dots::Weight* to) {
  const auto* codes = static_cast<const uint8_t*>(w.data) + row * w.cols / 2;
  eachCoded(lookup, w, scales, row, begin, end, [&](int64_t at) {
    __builtin_prefetch(codes + at / 2 + kReadAhead);
    typename Lookup::Dots::Value values[Lookup::kVectors];
    lookup.read(codes + at / 2, values);
    LOWRANK_UNROLL
    for (int v = 0; v < Lookup::kVectors; v++) {
      Dots::put(to + at - begin + v * Dots::kElements, values[v]);
    }
  });
}

/** Rows of x beside which codes are multiplied as they are looked up: of more, numbers in a buffer are used again. */
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kMostLookedUp = 6;
#else
constexpr int kMostLookedUp = 3;
#endif

/**
 * sums[t * kDotBlock + r] += elements [begin, end) of rows row + r . x[t], multiplied as they are looked up: the bits of
 * tileDots on lookUpRow's numbers.
 */
template <typename Lookup, int R, int T>
void lookUpDots(Lookup lookup, const Weight& w, const Scales& scales, int64_t row, int64_t begin, int64_t end,
                const typename Lookup::Dots::Input* x, int64_t xStride, float* sums) {
  using Dots = typename Lookup::Dots;
  TileSums<R, T> tile;
  const int64_t size = w.blockSize, perRow = w.cols / size;
  const auto* codes = static_cast<const uint8_t*>(w.data) + row * w.cols / 2;
  float room[R][kMostBlocks];
  for (int64_t block = begin / size, at = begin; at < end; block += kMostBlocks) {
    const int64_t count = std::min(kMostBlocks, (end - block * size + size - 1) / size);
    const float* here[R];
    LOWRANK_UNROLL
    for (int r = 0; r < R; r++) here[r] = scales.read((row + r) * perRow + block, count, room[r]);
    for (int64_t b = 0; b < count; b++) {
      const int64_t stop = std::min(end, (block + b + 1) * size);
      for (; at < stop; at += Lookup::kElements) {
        LOWRANK_UNROLL
        for (int r = 0; r < R; r++) {
          const uint8_t* from = codes + (r * w.cols + at) / 2;
          __builtin_prefetch(from + kReadAhead);
          typename Dots::Value values[Lookup::kVectors];
          lookup.scaleBy(here[r][b]);
          lookup.read(from, values);
          LOWRANK_UNROLL
          for (int v = 0; v < Lookup::kVectors; v++) {
            LOWRANK_UNROLL
            for (int t = 0; t < T; t++) {
              const auto x0 = Dots::input(x + t * xStride + at + v * Dots::kElements);
              tile.partial[t * R + r] = Dots::add(tile.partial[t * R + r], values[v], x0);
            }
          }
        }
      }
    }
  }
  tile.addTo(sums);
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
