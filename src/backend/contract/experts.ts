// Kernels of the contract that a mixture of experts needs beside products: who takes which token, the order of its rows, and
// what becomes of the experts' answers. Not here: the experts' own products, `groupedLinear` (../backend.ts).

import { activation, type Family, flag, float, i32, number, optional, out } from "./operands.ts";

export const expertKernels = {
  /**
   * Of each token the k experts with the largest logits, descending, and their weights: the softmax over all experts, or
   * over the chosen ones alone where they are normalized. Equal logits: the lower expert first. Shazeer et al. 2017.
   */
  router: {
    logits: float("t experts"),
    normalized: flag,
    weights: out(float("t k<=experts")),
    chosen: out(i32("t k")),
  },
  routerBackward: {
    logits: float("t experts"),
    normalized: flag,
    weights: float("t k<=experts"),
    chosen: i32("t k"),
    dWeights: float("t k"),
    dLogits: out(float("t experts")),
  },
  /**
   * Lines up the pairs of token and expert by expert, in the order of tokens: pair (t, j) stands at slots[t, j], where
   * tokens, flat, says t; expert e's are [offsets[e], offsets[e + 1]).
   */
  sortByExpert: {
    chosen: i32("t k"),
    offsets: out(i32("bounds")),
    slots: out(i32("t k")),
    tokens: out(i32("t k")),
  },
  /** y[t] = residual[t] + sum over j of weights[t, j] z[slots[t, j]]; absent weights are 1. */
  combineExperts: {
    z: float("m c"),
    slots: i32("t k"),
    weights: optional(float("t k")),
    residual: optional(float("t c")),
    y: out(float("t c"), "residual"),
  },
  /** dz[slots[t, j]] = weights[t, j] dy[t], dWeights[t, j] = dy[t] . z[slots[t, j]]. Every row of z is one pair's. */
  combineExpertsBackward: {
    dy: float("t c"),
    z: float("m c"),
    slots: i32("t k"),
    weights: float("t k"),
    dz: out(float("m c"), "z"),
    dWeights: out(float("t k")),
  },
  /**
   * y = activation(gate) * up, where a row of x is its gate and then its up. With limit > 0, and then whatever the
   * activation, y = (up + 1) gate sigmoid(alpha gate) of gate held below limit and up within +-limit.
   */
  expertActivation: {
    activation,
    limit: number,
    alpha: number,
    x: float("n 2 f"),
    y: out(float("n f")),
  },
  expertActivationBackward: {
    activation,
    limit: number,
    alpha: number,
    x: float("n 2 f"),
    dy: float("n f"),
    dx: out(float("n 2 f"), "x"),
  },
} as const satisfies Family;
