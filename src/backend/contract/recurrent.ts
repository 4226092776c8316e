// Kernels of the contract that walk along a sequence: the short convolution and the gated delta rule. Not here: attention
// (attention.ts).

import {
  type Family,
  flag,
  float,
  type NumberOperand,
  number,
  optional,
  out,
  segments,
  update,
} from "./operands.ts";

const convolution = {
  x: float("t c"),
  w: float("c taps"),
  bias: optional(float("c")),
  segments,
  silu: flag,
} as const;

const deltaGates = {
  a: float("t heads"),
  b: float("t heads"),
  logDecay: float("heads"),
  timeBias: float("heads"),
} as const;

const deltaRule = {
  qkv: float("t channels"),
  g: float("t vHeads"),
  beta: float("t vHeads"),
  segments,
  kHeads: { kind: "number", least: 1 } as NumberOperand,
  keyWidth: { kind: "number", least: 1 } as NumberOperand,
  scale: number,
  epsilon: number,
} as const;

export const recurrentKernels = {
  /**
   * Depthwise causal convolution: y[t] = bias + sum over i of w[:, i] x[t - taps + 1 + i], and of that x * sigmoid(x) where
   * `silu`. A segment sees nothing before its start. With `state`, whose row kStart holds the last `taps` inputs of a
   * sequence, a segment of kLength > qLength goes on from that row, and every segment leaves its row as the next one needs
   * it; segments of one row stand side by side, in order.
   */
  causalConv1d: { ...convolution, state: optional(update(float("slotCount taps c"))), y: out(float("t c")) },
  /** dx =, dw += and dBias +=; segments as in training, where no state is. */
  causalConv1dBackward: {
    ...convolution,
    dy: float("t c"),
    dx: optional(out(float("t c"))),
    dw: optional(update(float("c taps"))),
    dBias: optional(update(float("c"))),
  },
  /** g = -exp(logDecay) softplus(a + timeBias), never above 0, and beta = sigmoid(b). Yang et al. 2024, "Gated delta networks". */
  deltaGates: { ...deltaGates, g: out(float("t heads")), beta: out(float("t heads")) },
  deltaGatesBackward: {
    ...deltaGates,
    dg: float("t heads"),
    dBeta: float("t heads"),
    da: out(float("t heads")),
    db: out(float("t heads")),
    dLogDecay: optional(update(float("heads"))),
    dTimeBias: optional(update(float("heads"))),
  },
  /**
   * The gated delta rule (Yang et al. 2024): rows of qkv are [q | k | v] of kHeads, kHeads and vHeads heads, where value
   * head h reads key head h kHeads / vHeads. q = scale q / |q| and k = k / |k| (|x| = sqrt(sum x^2 + epsilon)), and a
   * matrix S [keyWidth, vDim] a head, 0 at a segment's start: S = exp(g) S; S += k (beta (v - S^T k))^T; out = S^T q. `state`
   * holds S between passes, as causalConv1d's does inputs. A segment's bits depend on nothing beside it.
   */
  gatedDeltaRule: {
    ...deltaRule,
    out: out(float("t vHeads vDim")),
    state: optional(update(float("slotCount vHeads kDim vDim"))),
  },
  gatedDeltaRuleBackward: {
    ...deltaRule,
    dOut: float("t vHeads vDim"),
    dqkv: out(float("t channels")),
    dg: out(float("t vHeads")),
    dBeta: out(float("t vHeads")),
  },
} as const satisfies Family;
