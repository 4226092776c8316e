// Kernels of the contract that work on the rows of tokens: embeddings, norms, RoPE and the loss. Not here: what mixes tokens
// (attention.ts, recurrent.ts).

import {
  type Family,
  flag,
  float,
  i32,
  type NumberOperand,
  number,
  optional,
  out,
  stored,
  update,
} from "./operands.ts";

export const rowKernels = {
  embedding: { ids: i32("t"), table: stored("v c"), y: out(float("t c")) },
  /** dTable[ids[t]] += dy[t]. */
  embeddingBackward: { ids: i32("t"), dy: float("t c"), dTable: update(float("v c")) },
  /**
   * y = x / sqrt(mean(x^2) + epsilon) * (shift + w) over the last dimension; rstd is for the backward pass. Zhang &
   * Sennrich 2019.
   */
  rmsNorm: {
    x: float("n c"),
    w: float("c"),
    shift: number,
    epsilon: number,
    y: out(float("n c"), "x"),
    rstd: out(float("n")),
  },
  /** dx = or += (accumulate); dw +=; what is absent is not computed. */
  rmsNormBackward: {
    x: float("n c"),
    w: float("c"),
    shift: number,
    rstd: float("n"),
    dy: float("n c"),
    dx: optional(update(float("n c"))),
    accumulate: flag,
    dw: optional(update(float("c"))),
  },
  /**
   * y = x turned in "rotate half" order; direction 1 forward, -1 back. The first 2 half elements of each head turn, in
   * pairs (i, i + half); the rest are copied. Su et al. 2021.
   */
  rope: {
    x: float("t heads headDim"),
    positions: i32("t"),
    cos: float("p half<=headDim/2"),
    sin: float("p half"),
    direction: number as NumberOperand<1 | -1>,
    y: out(float("t heads headDim"), "x"),
  },
  /** loss[i] = -log softmax(logits[i])[targets[i]]; dLogits = (softmax - onehot) * gradScale. Targets are in range. */
  crossEntropy: {
    logits: float("n v"),
    targets: i32("n"),
    loss: out(float("n")),
    dLogits: optional(out(float("n v"), "logits")),
    gradScale: number,
  },
} as const satisfies Family;
