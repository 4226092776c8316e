// FP4: a 4-bit floating-point number (sign, 2 exponent bits, 1 mantissa bit) scaled so that its largest value is 1.
// Kept for reading files and for comparison with NF4 (report.ts). How blocks are cut and packed: codebook.ts.
// Source: the FP4 type of bitsandbytes; its one subnormal is 0.0625/12, not the 0.5/12 of the OCP E2M1 format.

import { codebookQuantizer } from "./codebook.ts";

const magnitudes = [0, 0.0625, 8, 12, 4, 6, 2, 3]; // by the code's low three bits, in twelfths

/** The 16 values by code; bit 3 is the sign, so codes 0 and 8 are both zero. */
export const fp4Codebook = Float32Array.from({ length: 16 }, (_, code) => {
  const magnitude = magnitudes[code & 7]! / 12;
  return code & 8 && magnitude > 0 ? -magnitude : magnitude;
});

// Codes by ascending value. Of the two zeros, bitsandbytes' CPU build gives 0 to zero and below and 8 above it.
const ascending = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];

export const fp4 = codebookQuantizer("fp4", fp4Codebook, ascending);
