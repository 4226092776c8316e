// Kernels of the contract that go by column, as the kinds of adapters need them that scale a layer's outputs. Not here: the
// kinds (nn/adapter-kinds/).

import { type Family, float, number, optional, out, update } from "./operands.ts";

export const columnKernels = {
  /** y = x * factors + bias + residual, factors and bias by column; what is absent is left out. */
  scaleColumns: {
    x: float("t o"),
    factors: optional(float("o")),
    bias: optional(float("o")),
    residual: optional(float("t o")),
    y: out(float("t o"), "x"),
  },
  /** out[o] += sum over t of x[t, o] * y[t, o] / divisor[o]; an absent factor or divisor is 1. */
  addColumnDots: {
    x: float("t o"),
    y: optional(float("t o")),
    divisor: optional(float("o")),
    out: update(float("o")),
  },
  /**
   * Norms of the rows of W + scale B A, and magnitude / norm, from squares = the rows' own squared norms, wa = A W^T and
   * bGram = B A A^T: norm^2 = squares + sum over r of (2 scale wa + scale^2 bGram) b. A row of zeros has factor 0 and
   * norm 1. Liu et al. 2024, "DoRA".
   */
  magnitudeFactors: {
    magnitude: float("o"),
    squares: float("o"),
    b: float("o r"),
    bGram: float("o r"),
    wa: float("r o"),
    scale: number,
    factors: out(float("o")),
    norms: out(float("o")),
  },
} as const satisfies Family;
