// The short convolution and the gated delta rule with its gates: over packed segments whose lengths lie around the edges of
// chunks, from states and in pieces as generation has them, and their gradients.

import {
  causalConv1d as causalConv1dOp,
  deltaGates as deltaGatesOp,
  gatedDeltaRule as gatedDeltaRuleOp,
} from "../../../src/autograd/ops/recurrent.ts";
import type { Segments, Tensor } from "../../../src/backend/backend.ts";
import type { Stage } from "../stage.ts";
import { casesOf, type KernelCase, type KernelSpec, type SpeedCase, speedOf } from "./case.ts";

const total = (lengths: readonly number[]) => lengths.reduce((sum, length) => sum + length, 0);
const whole = (s: Stage, lengths: readonly number[]) => s.segments(lengths.map((n) => [n, n]));

/** Segments of states: each (length, slot, tokens of the sequence up to its end). */
function stateSegments(s: Stage, rows: readonly (readonly [number, number, number])[]): Segments {
  let start = 0;
  const table = rows.flatMap(([length, slot, end]) => {
    start += length;
    return [start - length, length, slot, end];
  });
  return {
    table: s.ints([rows.length, 4], table),
    count: rows.length,
    maxQueries: Math.max(...rows.map(([length]) => length)),
    maxKeys: Math.max(...rows.map(([, , end]) => end)),
  };
}

/** Two pieces of one sequence, one that goes on, one token of another, and one that starts. */
const pieces = [
  [70, 2, 70],
  [65, 2, 135],
  [9, 0, 40],
  [1, 3, 12],
  [3, 1, 3],
] as const;

interface ConvShape {
  readonly lengths: readonly number[];
  readonly c: number;
  readonly taps: number;
}

const convShapes: readonly ConvShape[] = [
  { lengths: [1], c: 1, taps: 2 },
  { lengths: [5, 1, 2, 9], c: 3, taps: 3 },
  { lengths: [3, 2], c: 17, taps: 8 },
  { lengths: [70, 33], c: 300, taps: 4 },
];

function convOperands(s: Stage, { lengths, c, taps }: ConvShape) {
  const t = total(lengths);
  return {
    ...{ x: s.random([t, c], 1, 2), w: s.random([c, taps], 2), bias: s.random([c], 3) },
    segments: whole(s, lengths),
  };
}

const convCases: KernelCase[] = [
  ...convShapes.flatMap((shape) =>
    [false, true].map((silu) => ({
      name: `causalConv1d and backward ${JSON.stringify(shape)}${silu ? ", silu" : ""}`,
      async run(s: Stage) {
        const given = { ...convOperands(s, shape), silu };
        const [y, plain] = [s.random(given.x.shape, 4), s.random(given.x.shape, 5)];
        s.backend.causalConv1d({ ...given, state: undefined, y });
        s.backend.causalConv1d({ ...given, bias: undefined, state: undefined, y: plain });
        const dy = s.random(given.x.shape, 6);
        const [dx, dw, dBias] = [s.random(dy.shape, 7), s.random(given.w.shape, 8), s.random([shape.c], 9)];
        s.backend.causalConv1dBackward({ ...given, dy, dx, dw, dBias });
        const alone = s.random(dy.shape, 10);
        s.backend.causalConv1dBackward({
          ...given,
          ...{ bias: undefined, dy, dx: alone, dw: undefined, dBias: undefined },
        });
        const dwAlone = s.random(given.w.shape, 11);
        s.backend.causalConv1dBackward({ ...given, dy, dx: undefined, dw: dwAlone, dBias: undefined });
        const all = { y, plain, dx, dw, dBias, alone, dwAlone };
        return readAll(s, all);
      },
    })),
  ),
  ...[2, 4, 8].map((taps) => ({
    name: `causalConv1d from states, ${taps} taps`,
    async run(s: Stage) {
      const t = total(pieces.map(([length]) => length));
      const [x, w, bias] = [s.random([t, 20], 1), s.random([20, taps], 2), s.random([20], 3)];
      const [state, y] = [s.random([4, taps, 20], 4), s.random([t, 20], 5)];
      const segments = stateSegments(s, pieces);
      s.backend.causalConv1d({ x, w, bias, segments, silu: true, state, y });
      return readAll(s, { y, state });
    },
  })),
];

async function readAll(s: Stage, tensors: Record<string, Tensor>) {
  const read = Object.entries(tensors).map(async ([name, tensor]) => [name, await s.read(tensor)] as const);
  return Object.fromEntries(await Promise.all(read));
}

interface RuleShape {
  readonly lengths: readonly number[];
  readonly kHeads: number;
  readonly vHeads: number;
  readonly keyWidth: number;
  readonly vDim: number;
  /** The decays' logs lie between this and 0; 1 when absent. */
  readonly decay?: number;
}

const ruleShapes: readonly RuleShape[] = [
  { lengths: [1], kHeads: 1, vHeads: 1, keyWidth: 2, vDim: 3 },
  { lengths: [7, 8, 17, 1], kHeads: 2, vHeads: 4, keyWidth: 8, vDim: 8 },
  { lengths: [63, 64, 65], kHeads: 1, vHeads: 2, keyWidth: 16, vDim: 20 },
  { lengths: [128, 129], kHeads: 2, vHeads: 2, keyWidth: 33, vDim: 7, decay: 0.01 },
  { lengths: [200], kHeads: 1, vHeads: 3, keyWidth: 64, vDim: 48, decay: 30 },
];

function ruleOperands(s: Stage, { lengths, kHeads, vHeads, keyWidth, vDim, decay }: RuleShape) {
  const t = total(lengths);
  const below = s.random([t, vHeads], 2, decay ?? 1);
  return {
    qkv: s.random([t, 2 * kHeads * keyWidth + vHeads * vDim], 1),
    below,
    ...{ beta: s.random([t, vHeads], 3), kHeads, keyWidth, scale: 1 / Math.sqrt(keyWidth), epsilon: 1e-6 },
    out: s.random([t, vHeads, vDim], 4),
  };
}

/** Gates as the model makes them: g below 0, beta between 0 and 1. */
function gated(s: Stage, shape: RuleShape) {
  const { below, ...given } = ruleOperands(s, shape);
  const zeros = s.zeros([shape.vHeads]);
  const [g, beta] = [s.zeros(below.shape), s.zeros(below.shape)];
  s.backend.deltaGates({ a: below, b: given.beta, logDecay: zeros, timeBias: zeros, g, beta });
  return { ...given, g, beta };
}

const ruleCases: KernelCase[] = [
  ...ruleShapes.map((shape) => ({
    name: `gatedDeltaRule and backward ${JSON.stringify(shape)}`,
    async run(s: Stage) {
      const given = { ...gated(s, shape), segments: whole(s, shape.lengths) };
      s.backend.gatedDeltaRule({ ...given, state: undefined });
      const { out, ...shared } = given;
      const dOut = s.random(out.shape, 5);
      const dqkv = s.random(given.qkv.shape, 6);
      const [dg, dBeta] = [s.random(given.g.shape, 7), s.random(given.g.shape, 8)];
      s.backend.gatedDeltaRuleBackward({ ...shared, dOut, dqkv, dg, dBeta });
      return readAll(s, { out, dqkv, dg, dBeta });
    },
  })),
  ...[
    { kHeads: 2, vHeads: 4, keyWidth: 16, vDim: 16 },
    { kHeads: 1, vHeads: 1, keyWidth: 5, vDim: 37 },
  ].map((sizes) => ({
    name: `gatedDeltaRule from states ${JSON.stringify(sizes)}`,
    async run(s: Stage) {
      const shape = { ...sizes, lengths: pieces.map(([length]) => length) };
      const state = s.random([4, sizes.vHeads, sizes.keyWidth, sizes.vDim], 9);
      const given = gated(s, shape);
      s.backend.gatedDeltaRule({ ...given, segments: stateSegments(s, pieces), state });
      return readAll(s, { out: given.out, state });
    },
  })),
];

/** One sequence of 512 tokens of Qwen3.5's 0.8B shape. */
const speedRule: RuleShape = { lengths: [512], kHeads: 16, vHeads: 16, keyWidth: 128, vDim: 128 };
const speedConv: ConvShape = { lengths: [512], c: 6144, taps: 4 };

const gradientSegments = [3, 4];

export const causalConv1d: KernelSpec = {
  name: "causalConv1d",
  cases: convCases,
  gradients: [false, true].map((silu) => ({
    name: `causalConv1d${silu ? ", silu" : ""}`,
    inputs: [[7, 3]],
    parameters: [[3, 1, 4], [3]],
    build: (s, tape, [x], [weight, bias]) =>
      causalConv1dOp(tape, x!, { weight: weight!, bias, silu, segments: whole(s, gradientSegments) }),
  })),
  speed: [
    {
      name: "causalConv1d 512 c 6144 taps 4",
      prepare(s) {
        const given = { ...convOperands(s, speedConv), bias: undefined, silu: true, state: undefined };
        const y = s.zeros(given.x.shape);
        return { call: () => s.backend.causalConv1d({ ...given, y }), outputs: { y } };
      },
    },
  ],
  threads: convCases,
};

/** Its cases are causalConv1d's: each runs both. */
export const causalConv1dBackward: KernelSpec = {
  name: "causalConv1dBackward",
  cases: [],
  speed: [
    {
      name: "causalConv1dBackward 512 c 6144 taps 4",
      prepare(s) {
        const given = { ...convOperands(s, speedConv), bias: undefined, silu: true };
        const [dy, dx] = [s.random(given.x.shape, 4), s.zeros(given.x.shape)];
        return {
          call: () => s.backend.causalConv1dBackward({ ...given, dy, dx, dw: undefined, dBias: undefined }),
          outputs: { dx },
        };
      },
    },
  ],
  threads: [],
};

const gateSizes = { t: 40, heads: 6 };

export const deltaGates: KernelSpec = {
  name: "deltaGates",
  // Inputs on both sides of where softplus is its argument.
  cases: casesOf(
    "deltaGates",
    [
      { t: 0, heads: 4 },
      { t: 3, heads: 1 },
      { t: 33, heads: 17 },
    ].map((sizes) => ({ sizes, bound: 15 })),
  ),
  gradients: [
    {
      name: "deltaGates and gatedDeltaRule",
      inputs: [
        [7, 14],
        [7, 2],
        [7, 2],
      ],
      parameters: [[2], [2]],
      build(s, tape, [qkv, a, b], [logDecay, timeBias]) {
        const { g, beta } = deltaGatesOp(tape, a!, b!, logDecay!, timeBias!);
        return gatedDeltaRuleOp(tape, qkv!, g, beta, {
          ...{ keyHeads: 2, keyWidth: 2, valueHeads: 2, valueWidth: 3 },
          segments: whole(s, gradientSegments),
        });
      },
    },
  ],
  speed: speedOf("deltaGates", [{ sizes: { t: 512, heads: 16 } }]),
  threads: casesOf("deltaGates", [{ sizes: gateSizes }]),
};

export const deltaGatesBackward: KernelSpec = {
  name: "deltaGatesBackward",
  cases: casesOf(
    "deltaGatesBackward",
    [
      { t: 0, heads: 4 },
      { t: 3, heads: 1 },
      { t: 33, heads: 17 },
    ].map((sizes) => ({ sizes, bound: 5 })),
  ),
  speed: speedOf("deltaGatesBackward", [{ sizes: { t: 512, heads: 16 } }]),
  threads: casesOf("deltaGatesBackward", [{ sizes: gateSizes }]),
};

/** Multiply-adds of the rule itself, token by token, times two: three products of a state with a vector. */
const ruleFlops = (passes: number) => passes * 2 * 3 * 512 * 16 * 128 * 128;

function ruleSpeed(backward: boolean): SpeedCase {
  return {
    name: `${backward ? "gatedDeltaRuleBackward" : "gatedDeltaRule"} 512 heads 16 width 128`,
    flops: ruleFlops(backward ? 2 : 1),
    prepare(s): ReturnType<SpeedCase["prepare"]> {
      const { out, ...given } = { ...gated(s, speedRule), segments: whole(s, speedRule.lengths) };
      if (!backward)
        return {
          call: () => s.backend.gatedDeltaRule({ ...given, state: undefined, out }),
          outputs: { out },
        };
      const [dqkv, dg, dBeta] = [given.qkv, given.g, given.g].map(({ shape }) => s.zeros(shape)) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      return {
        call: () => s.backend.gatedDeltaRuleBackward({ ...given, dOut: out, dqkv, dg, dBeta }),
        outputs: { dqkv, dg, dBeta },
      };
    },
  };
}

export const gatedDeltaRule: KernelSpec = {
  name: "gatedDeltaRule",
  cases: ruleCases,
  gradients: [
    {
      name: "gatedDeltaRule, two value heads a key head",
      inputs: [
        [7, 16],
        [7, 4],
        [7, 4],
      ],
      build: (s, tape, [qkv, g, beta]) =>
        gatedDeltaRuleOp(tape, qkv!, g!, beta!, {
          ...{ keyHeads: 2, keyWidth: 2, valueHeads: 4, valueWidth: 2 },
          segments: whole(s, gradientSegments),
        }),
    },
  ],
  speed: [ruleSpeed(false)],
  threads: ruleCases,
};

/** Its cases are gatedDeltaRule's: each runs both. */
export const gatedDeltaRuleBackward: KernelSpec = {
  name: "gatedDeltaRuleBackward",
  cases: [],
  speed: [ruleSpeed(true)],
  threads: [],
};
