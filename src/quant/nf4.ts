// NF4, "4-bit NormalFloat": a codebook whose 16 values are about equally often the nearest one when the weights of a
// block are normally distributed. The default of QLoRA. How blocks are cut and packed: codebook.ts.
// Source: Dettmers et al. 2023, "QLoRA", appendix E; the values are rounded to f32 as bitsandbytes stores them.

import { codebookQuantizer } from "./codebook.ts";

/** The 16 values by code; zero is code 7, so that padding and pruned weights stay exact. */
export const nf4Codebook = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
);

export const nf4 = codebookQuantizer("nf4", nf4Codebook);
