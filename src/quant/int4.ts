// Symmetric INT4 written as a codebook: 15 equally spaced values k/7, k = -7..7. It has no file format here; it exists
// to be compared with NF4 and FP4 on the same weights (report.ts). How blocks are cut and packed: codebook.ts.

import { codebookQuantizer } from "./codebook.ts";

/** Code c stands for (c - 8) / 7. Code 0 (-8/7) is never produced, since every block is scaled into [-1, 1]. */
export const int4Codebook = Float32Array.from({ length: 16 }, (_, code) => (code - 8) / 7);

export const int4 = codebookQuantizer("int4", int4Codebook);
