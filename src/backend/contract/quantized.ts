// The quantiser of the contract. Not here: products with quantised weights (../backend.ts), nor what the codes mean (quant/).

import { type Family, f32, numbers, out, stored, u8 } from "./operands.ts";

export const quantizedKernels = {
  /** Quantises finite numbers to 4 bits, bit for bit as quant/codebook.ts does, where thresholds and codes come from. */
  quantize4bit: {
    x: stored("*count"),
    thresholds: numbers(15),
    codeByRank: numbers(16),
    blockSize: { kind: "number", least: 2, most: 4096, multipleOf: 2 },
    codes: out(u8("*ceil(count/2)")),
    absmax: out(f32("*ceil(count/blockSize)")),
  },
} as const satisfies Family;
