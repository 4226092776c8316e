// The kernels that every device implements: the one place where their operands stand, what these are shaped like, which
// of them are written and which may share memory. From this come the types of the calls (a forgotten operand does not
// compile), the checks of every call (operand-check.ts), the CPU's argument writer (cpu/write-call.ts) with its agreement
// with native/kernels.def, the counting backend, the traced one, and the operands of the conformance cases. Not here:
// products, whose calls carry lists of parts (backend.ts), memory (backend.ts), arithmetic (reference.ts).
//
// Shapes name sizes, and equal names are equal sizes: "t heads headDim". "headDim/2" divides exactly,
// "half<=headDim/2" is at most that, "ceil(n/blockSize)" rounds up, "*n" is the product of all sizes that are left. T = tokens of a batch, all sequences laid
// end to end (padding never exists); c = model width, v = vocabulary, p = positions in a table.

import type { DType } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * Which tokens attend to which: row s of `table` is (qStart, qLength, kStart, kLength), i32. Query i of a segment
 * stands at position kLength - qLength + i and sees keys 0..position of its own segment, and of these only the last
 * `window` when window > 0. Segments never see each other.
 */
export interface Segments {
  readonly table: Tensor; // [count, 4] i32
  readonly count: number;
  readonly maxQueries: number;
  readonly maxKeys: number;
}

export type ActivationKind = "silu" | "gelu" | "geluTanh" | "identity" | "sigmoid";

/** Elements that share one scale in 8-bit moments; a tensor's last block may be shorter. */
export const momentBlockSize = 256;

/** "float" is the backend's floatType: f32, and f64 on the f64 reference. */
export type OperandType = DType | "float";

export interface TensorOperand<Optional extends boolean = boolean> {
  readonly kind: "tensor";
  readonly types: readonly OperandType[];
  readonly shape: string;
  /** "out" is overwritten whole, "update" is read and written; rows of an update that nothing names stay as they are. */
  readonly access: "in" | "out" | "update";
  readonly optional: Optional;
  /** Operands whose memory this output may be; with no other may it share any. */
  readonly mayBe: readonly string[];
}

export interface NumberOperand<T extends number = number> {
  readonly kind: "number";
  /** The values there are, for the compiler alone. */
  readonly values?: T;
  readonly least?: number;
  readonly most?: number;
  readonly multipleOf?: number;
}

export interface ChoiceOperand<T extends string = string> {
  readonly kind: "choice";
  readonly choices: readonly T[];
}

export type Operand =
  | TensorOperand
  | NumberOperand
  | ChoiceOperand
  | { readonly kind: "flag" }
  | { readonly kind: "segments" }
  | { readonly kind: "numbers"; readonly count: number };

const tensor =
  (...types: OperandType[]) =>
  (shape: string): TensorOperand<false> => ({
    kind: "tensor",
    types,
    shape,
    access: "in",
    optional: false,
    mayBe: [],
  });
const float = tensor("float");
const f32 = tensor("f32");
const i32 = tensor("i32");
const u8 = tensor("u8");
/** Weights as files hold them. */
const anyFloat = tensor("float", "f32", "f64", "bf16", "f16");
const stored = tensor("float", "f32", "bf16", "f16");
const out = (operand: TensorOperand<false>, ...mayBe: string[]): TensorOperand<false> => ({
  ...operand,
  access: "out",
  mayBe,
});
const update = (operand: TensorOperand<false>): TensorOperand<false> => ({ ...operand, access: "update" });
const optional = (operand: TensorOperand<false>): TensorOperand<true> => ({ ...operand, optional: true });
const number: NumberOperand = { kind: "number" };
const flag = { kind: "flag" } as const;
const segments = { kind: "segments" } as const;
const numbers = (count: number) => ({ kind: "numbers", count }) as const;
const activation: ChoiceOperand<ActivationKind> = {
  kind: "choice",
  choices: ["silu", "gelu", "geluTanh", "identity", "sigmoid"],
};

const attention = {
  q: float("tq heads headDim"),
  k: float("tk kvHeads headDim"),
  v: float("tk kvHeads headDim"),
  segments,
  scale: number,
  window: number,
  /** Above 0, scores become softcap * tanh(score / softcap) before they are masked (Gemma Team 2024). */
  softcap: number,
  /** One more score a head in every softmax's denominator, whose weight falls to no value (Xiao et al. 2023). */
  sinks: optional(float("heads")),
} as const;

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

const clipping = {
  /** As clipFactor leaves it: gradients are multiplied by it, below 0 the update changes nothing. 1 when absent. */
  factor: optional(float("1")),
} as const;

/** What every update of parameters by AdamW is told. */
const adamwConstants = {
  learningRate: number,
  beta1: number,
  beta2: number,
  epsilon: number,
  weightDecay: number,
  /** 1 for the first update. */
  step: number,
  ...clipping,
} as const;

export const contract = {
  /** y = value. */
  fill: { y: out(tensor("float", "f32")("*n")), value: number },
  /** y = x, converting between f32, f64, bf16 and f16. */
  cast: { x: anyFloat("*n"), y: out(anyFloat("*n")) },
  /** y += x. */
  addInPlace: { x: float("*n"), y: update(float("*n")) },
  /** y *= factor. */
  scaleInPlace: { y: update(float("*n")), factor: number },
  /** y = uniform in [-bound, bound): bits of (seed, stream, i) as (bits / 2^31 - 1) * bound. */
  fillUniform: { y: out(stored("*n")), bound: number, seed: number, stream: number },
  /** y = x / (1 - p) where the mask keeps an element, else 0: element i as a product's Dropout has it (backend.ts). */
  dropout: {
    x: float("*n"),
    p: { kind: "number", least: 0, most: 1 },
    seed: number,
    stream: number,
    y: out(float("*n"), "x"),
  },
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
  /** y[i] = x[index[i]]. */
  gatherRows: { x: float("rows *c"), index: i32("m"), y: out(float("m *c")) },
  /** y[index[i]] = x[i]; rows not named are left alone. No index repeats. */
  scatterRows: { x: float("m *c"), index: i32("m"), y: update(float("rows *c")) },
  /** y[t, to + i] = x[t, from + i] for i below count; columns not named are left alone. All lie within both. */
  copyColumns: {
    x: float("t n"),
    from: number,
    y: update(float("t m")),
    to: number,
    count: number,
  },

  sum: { x: float("*n"), out: out(float("1")) },
  sumSquares: { x: float("*n"), out: out(float("1")) },
  /** Number of NaN or infinite elements. */
  countNonFinite: { x: stored("*n"), out: out(float("1")) },
  /**
   * What an update multiplies gradients by: min(1, maxNorm / (sqrt(sumSquares[0]) + 1e-6)) as torch's clip_grad_norm_, or 1
   * where maxNorm is 0. It is -1, and the update changes nothing, when sumSquares or a loss is not finite, and when factor
   * held a number below 0 before: what follows a step that went wrong is held up with it until somebody writes factor.
   */
  clipFactor: { sumSquares: float("1"), losses: float("*n"), maxNorm: number, factor: update(float("1")) },

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

  /** Causal attention with grouped heads; lse is the log of each row's sum of exponentials, the sink's among them. */
  attention: { ...attention, out: out(float("tq heads headDim")), lse: out(float("tq heads")) },
  /** Only for self-attention segments (qLength = kLength, qStart = kStart). */
  attentionBackward: {
    ...attention,
    out: float("tq heads headDim"),
    lse: float("tq heads"),
    dOut: float("tq heads headDim"),
    dq: out(float("tq heads headDim")),
    dk: out(float("tk kvHeads headDim")),
    dv: out(float("tk kvHeads headDim")),
    dSinks: optional(update(float("heads"))),
  },

  /** y = activation(gate) * up. */
  gatedActivation: { activation, gate: float("*n"), up: float("*n"), y: out(float("*n"), "gate", "up") },
  gatedActivationBackward: {
    activation,
    gate: float("*n"),
    up: float("*n"),
    dy: float("*n"),
    dGate: out(float("*n"), "gate"),
    dUp: out(float("*n"), "up"),
  },

  /** y = cap tanh(x / cap). */
  softCap: { x: float("*n"), cap: number, y: out(float("*n"), "x") },
  /** dx = dy (1 - (y / cap)^2). */
  softCapBackward: { y: float("*n"), cap: number, dy: float("*n"), dx: out(float("*n"), "dy") },
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

  /** loss[i] = -log softmax(logits[i])[targets[i]]; dLogits = (softmax - onehot) * gradScale. Targets are in range. */
  crossEntropy: {
    logits: float("n v"),
    targets: i32("n"),
    loss: out(float("n")),
    dLogits: optional(out(float("n v"), "logits")),
    gradScale: number,
  },

  /**
   * One update of Lion (Chen et al. 2023): params = params (1 - learningRate weightDecay) - learningRate
   * sign(beta1 m + (1 - beta1) g), then m = beta2 m + (1 - beta2) g; g is clipped as AdamW's.
   */
  lion: {
    params: update(float("count")),
    grads: float("count"),
    m: update(float("count")),
    learningRate: number,
    beta1: number,
    beta2: number,
    weightDecay: number,
    ...clipping,
  },
  /** One update of flat state, as torch.optim.AdamW: decay, moments, bias-corrected step, epsilon outside the root. */
  adamw: {
    params: update(float("count")),
    grads: float("count"),
    m: update(float("count")),
    v: update(float("count")),
    ...adamwConstants,
  },
  /**
   * The same update on moments in 8 bits (optim/adamw-8bit-reference.ts), used in full and then rounded to the nearest
   * codes: m = mMap[mCodes] * mAbsmax of its block, and v likewise. Maps ascend and hold a 0.
   */
  adamw8bit: {
    params: update(float("count")),
    grads: float("count"),
    mCodes: update(u8("count")),
    vCodes: update(u8("count")),
    mAbsmax: update(f32(`ceil(count/${momentBlockSize})`)),
    vAbsmax: update(f32(`ceil(count/${momentBlockSize})`)),
    mMap: f32("256"),
    vMap: f32("256"),
    ...adamwConstants,
  },

  /** Quantises finite numbers to 4 bits, bit for bit as quant/codebook.ts does, where thresholds and codes come from. */
  quantize4bit: {
    x: stored("*count"),
    thresholds: numbers(15),
    codeByRank: numbers(16),
    blockSize: { kind: "number", least: 2, most: 4096, multipleOf: 2 },
    codes: out(u8("*ceil(count/2)")),
    absmax: out(f32("*ceil(count/blockSize)")),
  },
} as const satisfies Record<string, Record<string, Operand>>;

export type Contract = typeof contract;
export type KernelName = keyof Contract;
export const kernelNames = Object.keys(contract) as readonly KernelName[];

type ValueOf<O> =
  O extends TensorOperand<true>
    ? Tensor | undefined
    : O extends TensorOperand
      ? Tensor
      : O extends NumberOperand<infer T>
        ? T
        : O extends ChoiceOperand<infer T>
          ? T
          : O extends { readonly kind: "flag" }
            ? boolean
            : O extends { readonly kind: "segments" }
              ? Segments
              : ArrayLike<number>;

/** What a call of kernel K is given. An absent optional operand is `undefined`, and still named. */
export type Operands<K extends KernelName> = {
  readonly [Name in keyof Contract[K]]: ValueOf<Contract[K][Name]>;
};

/** One method a kernel. */
export type ContractKernels = { readonly [K in KernelName]: (operands: Operands<K>) => void };

/** A value for every kernel of the contract. */
export function forEachKernel<T>(make: (name: KernelName) => T): Record<KernelName, T> {
  return Object.fromEntries(kernelNames.map((name) => [name, make(name)])) as Record<KernelName, T>;
}
