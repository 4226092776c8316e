// fillUniform: Philox 4x32-10 (Salmon et al. 2011), bit for bit randomBits() of src/util/rng.ts, so that a value
// depends on (seed, stream, index) alone. Not here: the dropout masks (gemm/).
#include "../threads.h"
#include "declarations.h"
#include "half.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr int64_t kGrain = 4096;

/** The four words of one block. */
LOWRANK_INLINE void philox(uint64_t block, uint32_t stream, uint64_t seed, uint32_t out[4]) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = stream, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t product0 = uint64_t{0xd2511f53} * c0;
    const uint64_t product1 = uint64_t{0xcd9e8d57} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9e3779b9;
    k1 += 0xbb67ae85;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

}  // namespace

void fillUniform(void* y, DType type, int64_t n, float bound, uint64_t seed, uint32_t stream) {
  parallelRange(n, kGrain, [&](int64_t begin, int64_t end, int) {
    // Ranges start at whole grains, hence at whole Philox blocks.
    for (int64_t i = begin; i < end; i += 4) {
      uint32_t bits[4];
      philox(static_cast<uint64_t>(i) / 4, stream, seed, bits);
      for (int64_t lane = 0; lane < smaller(4, end - i); lane++) {
        const auto value = static_cast<float>((bits[lane] / 2147483648.0 - 1.0) * static_cast<double>(bound));
        if (type == DType::BF16) {
          static_cast<uint16_t*>(y)[i + lane] = toBf16(value);
        } else if (type == DType::F16) {
          static_cast<uint16_t*>(y)[i + lane] = toF16(value);
        } else {
          static_cast<float*>(y)[i + lane] = value;
        }
      }
    }
  });
}

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
