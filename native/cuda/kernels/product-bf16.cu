// The kernels of bf16 products (product-bf16.h). In a name: the form, then the tile; "codes" for those whose B may be
// quantised. src/backend/cuda/product-kernels.ts knows them by these names. An array of partial sums and of C begins at a
// multiple of 8 bytes.
#include "../device.h"

/**
 * C [m, n] f32, rows of ldc. Term t: a [m, k] (or [k, m]) and b [n, k] (or [k, n]), rows of lda and ldb elements that begin at
 * multiples of 16 bytes and are zero between their last element and the next multiple of 8. In the kernels of codes, the first
 * term's b is the codes of rows of ldb elements (quantized.h), a multiple of 8.
 */
struct ProductArguments {
  const void* a[2];
  const void* b[2];
  float* c;
  const float* bias;      // [n]
  const float* residual;  // [m, n], rows of ldc; may be c
  float* partials;        // [slices, m, n rounded up to even] with kPartial: gridDim.z slices of `steps` steps of 32 of K
  const float* codebook;  // [16]
  const void* absmax;     // f32 [blocks], or u8 [blocks] where there is a nested codebook
  const float* nestedAbsmax;
  const float* nestedCodebook;  // [256]
  u32 k[2];
  u32 lda[2];
  u32 ldb[2];
  u32 terms, m, n, ldc, flags, steps;
  u32 blockShift, nestedShift;  // log2 of the elements that share a scale, of the blocks that share a nested one
  float nestedOffset;
};

#include "product-bf16.h"

KERNEL(productForward128x256, ProductArguments, 256, 1, 98320) { productBf16<kForward, 128, 256, 64, 64, 4, false>(a); }
KERNEL(productForward128x128, ProductArguments, 128, 2, 49168) { productBf16<kForward, 128, 128, 64, 64, 3, false>(a); }
KERNEL(productForward64x64, ProductArguments, 128, 3, 32784) { productBf16<kForward, 64, 64, 32, 32, 4, false>(a); }
KERNEL(productForward64x32, ProductArguments, 128, 3, 24592) { productBf16<kForward, 64, 32, 16, 32, 4, false>(a); }

KERNEL(productInput128x256, ProductArguments, 256, 1, 98320) { productBf16<kInput, 128, 256, 64, 64, 4, false>(a); }
KERNEL(productInput128x128, ProductArguments, 128, 2, 49168) { productBf16<kInput, 128, 128, 64, 64, 3, false>(a); }
KERNEL(productInput64x64, ProductArguments, 128, 3, 32784) { productBf16<kInput, 64, 64, 32, 32, 4, false>(a); }
KERNEL(productInput64x32, ProductArguments, 128, 3, 24592) { productBf16<kInput, 64, 32, 16, 32, 4, false>(a); }

KERNEL(productWeight128x128, ProductArguments, 128, 2, 49168) { productBf16<kWeight, 128, 128, 64, 64, 3, false>(a); }
KERNEL(productWeight64x64, ProductArguments, 128, 3, 32784) { productBf16<kWeight, 64, 64, 32, 32, 4, false>(a); }
KERNEL(productWeight64x32, ProductArguments, 128, 3, 24592) { productBf16<kWeight, 64, 32, 16, 32, 4, false>(a); }
KERNEL(productWeight32x128, ProductArguments, 128, 3, 40976) { productBf16<kWeight, 32, 128, 32, 32, 4, false>(a); }

KERNEL(productForwardCodes128x128, ProductArguments, 128, 2, 49216) { productBf16<kForward, 128, 128, 64, 64, 3, true>(a); }
KERNEL(productForwardCodes64x64, ProductArguments, 128, 3, 24640) { productBf16<kForward, 64, 64, 32, 32, 3, true>(a); }
KERNEL(productInputCodes128x128, ProductArguments, 128, 2, 49216) { productBf16<kInput, 128, 128, 64, 64, 3, true>(a); }
KERNEL(productInputCodes64x64, ProductArguments, 128, 3, 24640) { productBf16<kInput, 64, 64, 32, 32, 3, true>(a); }
