// Decodes weights in ggml's blocks, as GGUF files have them, to rows of numbers: what src/quant/ggml does in TypeScript,
// where the layouts are drawn. Blocks are read as they lie; nothing is repacked.
#pragma once
#include <algorithm>
#include <cstring>

#include "gemm.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** A finite f16: exponent and fraction, moved to f32's place, stand for the value times 2^-112. */
inline float halfAt(const uint8_t* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return (half & 0x8000 ? -0x1p112f : 0x1p112f) * value;
}

/** Low nibbles of `half` bytes, then their high ones: codes of 2 * half elements. */
template <int half>
inline void splitNibbles(const uint8_t* bytes, uint8_t* codes) {
  for (int i = 0; i < half; i++) {
    codes[i] = bytes[i] & 15;
    codes[half + i] = bytes[i] >> 4;
  }
}

/** Adds bit i of `bits` to element i of 32 codes as their fifth. */
inline void addFifthBits(const uint8_t* at, uint8_t* codes) {
  uint32_t bits;
  std::memcpy(&bits, at, sizeof bits);
  for (int i = 0; i < 32; i++) codes[i] |= static_cast<uint8_t>((bits >> i & 1) << 4);
}

template <int n>
inline void affine(const uint8_t* codes, float scale, float minimum, float* to) {
  for (int i = 0; i < n; i++) to[i] = scale * static_cast<float>(codes[i]) + minimum;
}

template <int n>
inline void centered(const uint8_t* codes, int middle, float scale, float* to) {
  for (int i = 0; i < n; i++) to[i] = scale * static_cast<float>(codes[i] - middle);
}

/** Blocks of 32. */
inline void decodeSmall(Weight::Kind kind, const uint8_t* block, float* to) {
  using Kind = Weight::Kind;
  uint8_t codes[32];
  switch (kind) {
    case Kind::Q4_0:
      splitNibbles<16>(block + 2, codes);
      return centered<32>(codes, 8, halfAt(block), to);
    case Kind::Q4_1:
      splitNibbles<16>(block + 4, codes);
      return affine<32>(codes, halfAt(block), halfAt(block + 2), to);
    case Kind::Q5_0:
      splitNibbles<16>(block + 6, codes);
      addFifthBits(block + 2, codes);
      return centered<32>(codes, 16, halfAt(block), to);
    case Kind::Q5_1:
      splitNibbles<16>(block + 8, codes);
      addFifthBits(block + 4, codes);
      return affine<32>(codes, halfAt(block), halfAt(block + 2), to);
    case Kind::Q8_0: {
      const float scale = halfAt(block);
      const auto* values = reinterpret_cast<const int8_t*>(block + 2);
      for (int i = 0; i < 32; i++) to[i] = scale * static_cast<float>(values[i]);
      return;
    }
    default: {  // Mxfp4
      constexpr float kFp4[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
      // 2^(e - 127); the smallest two are no normal numbers.
      const uint32_t bits = block[0] > 0 ? static_cast<uint32_t>(block[0]) << 23 : 1u << 22;
      float scale;
      std::memcpy(&scale, &bits, sizeof scale);
      splitNibbles<16>(block + 1, codes);
      for (int i = 0; i < 32; i++) to[i] = kFp4[codes[i]] * scale;
    }
  }
}

/** Six bits of the scales and minimums of eight sub-blocks, from 12 bytes. */
inline void unpackScales(const uint8_t* from, uint8_t* scales, uint8_t* minimums) {
  for (int j = 0; j < 4; j++) {
    scales[j] = from[j] & 63;
    minimums[j] = from[j + 4] & 63;
    scales[j + 4] = static_cast<uint8_t>((from[j + 8] & 15) | (from[j] >> 6) << 4);
    minimums[j + 4] = static_cast<uint8_t>(from[j + 8] >> 4 | (from[j + 4] >> 6) << 4);
  }
}

/** Q4_K and Q5_K: 256 elements. */
template <bool wide>
inline void decodeWithMinimums(const uint8_t* block, float* to) {
  const float d = halfAt(block), dMin = halfAt(block + 2);
  uint8_t scales[8], minimums[8];
  unpackScales(block + 4, scales, minimums);
  const uint8_t* high = block + 16;
  const uint8_t* low = block + (wide ? 48 : 16);
  for (int j = 0; j < 8; j += 2, low += 32) {
    uint8_t codes[64];
    splitNibbles<32>(low, codes);
    if constexpr (wide) {
      for (int i = 0; i < 32; i++) {
        codes[i] |= static_cast<uint8_t>((high[i] >> j & 1) << 4);
        codes[32 + i] |= static_cast<uint8_t>((high[i] >> (j + 1) & 1) << 4);
      }
    }
    for (int k = 0; k < 2; k++) {
      affine<32>(codes + 32 * k, d * scales[j + k], -(dMin * minimums[j + k]), to + 32 * (j + k));
    }
  }
}

/** Q6_K: 256 elements. */
inline void decodeQ6(const uint8_t* block, float* to) {
  const float d = halfAt(block + 208);
  const auto* scales = reinterpret_cast<const int8_t*>(block + 192);
  for (int h = 0; h < 2; h++) {
    const uint8_t* low = block + 64 * h;
    const uint8_t* high = block + 128 + 32 * h;
    for (int q = 0; q < 4; q++) {
      uint8_t codes[32];
      for (int i = 0; i < 32; i++) {
        const int nibble = low[32 * (q & 1) + i] >> (q < 2 ? 0 : 4) & 15;
        codes[i] = static_cast<uint8_t>(nibble | (high[i] >> 2 * q & 3) << 4);
      }
      const int first = 128 * h + 32 * q;
      for (int k = 0; k < 2; k++) centered<16>(codes + 16 * k, 32, d * scales[first / 16 + k], to + first + 16 * k);
    }
  }
}

inline void decodeBlock(Weight::Kind kind, const uint8_t* block, float* to) {
  switch (kind) {
    case Weight::Kind::Q4_K: return decodeWithMinimums<false>(block, to);
    case Weight::Kind::Q5_K: return decodeWithMinimums<true>(block, to);
    case Weight::Kind::Q6_K: return decodeQ6(block, to);
    default: return decodeSmall(kind, block, to);
  }
}

/** Calls body(values, count, at) with the numbers of stretches of [col, col + n) of a row, `at` counted from col. */
template <typename Body>
inline void eachDecoded(const Weight& w, int64_t row, int64_t col, int64_t n, const Body& body) {
  const BlockSize size = blockSizeOf(w.kind);
  const auto* bytes = static_cast<const uint8_t*>(w.data) + row * (w.cols / size.elements) * size.bytes;
  alignas(64) float values[256];
  for (int64_t at = col; at < col + n;) {
    const int64_t block = at / size.elements, first = at - block * size.elements;
    const int64_t count = std::min<int64_t>(size.elements - first, col + n - at);
    decodeBlock(w.kind, bytes + block * size.bytes, values);
    body(values + first, count, at - col);
    at += count;
  }
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
