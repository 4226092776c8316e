// bf16 and f16 numbers as bits: to and from f32, rounding to nearest even, NaN staying NaN. Bit for bit the
// functions of src/tensor/dtype.ts. Written without branches, so that loops over them become vector code.
// Not here: the loops (cast.cc, embedding.cc).
#pragma once
#include "../simd.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

LOWRANK_INLINE uint32_t bitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

LOWRANK_INLINE float fromBits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// sign 1 | exponent 8 | fraction 7: the upper half of an f32.
LOWRANK_INLINE float fromBf16(uint16_t h) { return fromBits(static_cast<uint32_t>(h) << 16); }

LOWRANK_INLINE uint16_t toBf16(float x) {
  const uint32_t bits = bitsOf(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

// sign 1 | exponent 5, bias 15 | fraction 10.
LOWRANK_INLINE float fromF16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t magnitude = h & 0x7fff;
  // Exponent and fraction moved to f32's place stand for the value times 2^-112, except infinity and NaN.
  const float finite = fromBits(magnitude << 13) * 0x1p112f;
  const uint32_t special = (magnitude << 13) | 0x7f800000;
  return fromBits(sign | (magnitude >= 0x7c00 ? special : bitsOf(finite)));
}

LOWRANK_INLINE uint16_t toF16(float x) {
  const uint32_t bits = bitsOf(x);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  // Subnormal: the sum with 0.5 leaves multiples of 2^-24 in the low bits, rounded by the adder itself.
  const uint32_t small = bitsOf(fromBits(magnitude) + 0.5f) - 0x3f000000;
  const uint32_t normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - 0x38000000) >> 13;
  uint32_t half = magnitude < 0x38800000 ? small : normal;
  half = magnitude >= 0x477ff000 ? 0x7c00 : half;  // rounds to 65536 or above
  half = magnitude > 0x7f800000 ? 0x7e00 : half;
  return static_cast<uint16_t>(sign | half);
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
