// Linear layers of a mixture's experts, forward and backward: every weight type, rows that stand apart and rows in order,
// experts without rows, with one and with most of them, biases, adapters. Their operands are made here, as linear's are.

import {
  combineExperts as combineOp,
  groupedLinear as groupedOp,
  route,
} from "../../../src/autograd/ops/experts.ts";
import type { GroupedRows, MatrixStack } from "../../../src/backend/backend.ts";
import { Random } from "../../../src/util/rng.ts";
import type { Stage } from "../stage.ts";
import type { GradientCase, KernelCase, KernelSpec, SpeedCase } from "./case.ts";
import { choices, ordered } from "./routed-rows.ts";

interface Shape {
  readonly tokens: number;
  readonly experts: number;
  readonly k: number;
  readonly inputs: number;
  readonly outputs: number;
  readonly rank: number;
}

const shape = (
  tokens: number,
  experts: number,
  k: number,
  inputs: number,
  outputs: number,
  rank: number,
): Shape => ({ tokens, experts, k, inputs, outputs, rank });

const shapes = [
  shape(0, 3, 2, 8, 5, 2),
  shape(1, 4, 2, 64, 40, 4),
  shape(5, 8, 2, 33, 17, 3),
  shape(16, 6, 3, 96, 80, 8),
  shape(20, 3, 2, 65, 33, 1),
  shape(40, 9, 4, 160, 70, 8),
  shape(130, 5, 2, 128, 64, 19),
];

/** Rows of all experts: as a router of random choices has them, or nearly all at the second expert. */
function rowsOf(s: Stage, { tokens, experts, k }: Shape, indexed: boolean, crowded: boolean): GroupedRows {
  const few = tokens <= s.backend.rowsAlike.few;
  if (crowded) {
    const count = tokens * k;
    const first = Math.min(1, count);
    const offsets = Array.from({ length: experts + 1 }, (_, e) =>
      e === 0 ? 0 : e === 1 ? first : e === experts ? count : Math.max(first, count - 1),
    );
    const index = Array.from({ length: count }, (_, i) => Math.floor(i / k));
    return {
      offsets: s.ints([experts + 1], offsets),
      index: indexed ? s.ints([count], index) : undefined,
      few,
    };
  }
  const { offsets, tokens: index } = ordered(choices(tokens, experts, k), experts, k);
  return {
    offsets: s.ints([experts + 1], offsets),
    index: indexed ? s.ints([index.length], index) : undefined,
    few,
  };
}

/** Random codes, scales and a codebook, as for linear; `nested` with an offset for each expert. */
function quantizedStack(
  s: Stage,
  { experts, outputs, inputs }: Shape,
  blockSize: number,
  nested: boolean,
): MatrixStack {
  const size = inputs * outputs;
  const blocks = Math.ceil(size / blockSize);
  const random = new Random(5);
  const bytes = (n: number) =>
    s.bytes(
      [n],
      Uint8Array.from({ length: n }, () => random.nextInt(256)),
    );
  return {
    kind: "quantizedStack",
    shape: [experts, outputs, inputs],
    codes: bytes(experts * Math.ceil(size / 2)),
    codebook: s.random([16], 11, 1, "f32"),
    blockSize,
    absmax: nested ? bytes(experts * blocks) : s.random([experts * blocks], 12, 1, "f32"),
    nested: nested
      ? {
          codebook: s.random([256], 13, 1, "f32"),
          absmax: s.random([experts * Math.ceil(blocks / 4)], 14, 1, "f32"),
          blockSize: 4,
          offsets: s.random([experts], 15, 0.2, "f32"),
        }
      : undefined,
  };
}

type Make = (s: Stage, size: Shape) => MatrixStack;
const weights: readonly (readonly [string, Make])[] = [
  ["f32", (s, { experts, outputs, inputs }) => s.random([experts, outputs, inputs], 3)],
  ["bf16", (s, { experts, outputs, inputs }) => s.random([experts, outputs, inputs], 3, 1, "bf16")],
  ["4-bit", (s, size) => quantizedStack(s, size, 64, false)],
  ["4-bit in blocks of 32, nested", (s, size) => quantizedStack(s, size, 32, true)],
];

function groupedCase(size: Shape, [type, make]: (typeof weights)[number], crowded = false): KernelCase {
  const { tokens, experts, k, inputs, outputs, rank } = size;
  const count = tokens * k;
  return {
    name: `groupedLinear ${type} [${tokens},${inputs}]x${k} of ${experts}x[${outputs},${inputs}], adapters of ${rank}${crowded ? ", crowded" : ""}`,
    product: true,
    async run(s) {
      const weight = make(s, size);
      const outputsRead: Record<string, Float32Array> = {};
      for (const indexed of [true, false]) {
        const rows = rowsOf(s, size, indexed, crowded);
        const x = s.random([indexed ? tokens : count, inputs], 1);
        const bare = s.random([count, outputs], 21);
        s.backend.groupedLinear(x, rows, { weight, y: bare });
        const adapter = {
          a: s.random([experts * rank, inputs], 22),
          b: s.random([experts, outputs, rank], 23),
          scale: 0.5,
          u: s.zeros([count, rank]),
        };
        const y = s.random([count, outputs], 24);
        const bias = s.random([experts, outputs], 25);
        s.backend.groupedLinear(x, rows, { weight, bias, adapter, y });
        const dy = s.random([count, outputs], 26);
        const frozen = s.random([count, inputs], 27);
        s.backend.groupedLinearBackward(undefined, rows, { weight, dy }, frozen);
        const [dA, dB] = [s.random([experts * rank, inputs], 28), s.random([experts, outputs, rank], 29)];
        const [dWeight, dBias] = [s.random([experts, outputs, inputs], 30), s.random([experts, outputs], 31)];
        const dx = s.random([count, inputs], 32);
        const part = { weight, dy, adapter: { ...adapter, dA, dB }, dWeight, dBias };
        s.backend.groupedLinearBackward(x, rows, part, dx);
        const all = { bare, u: adapter.u, y, frozen, dA, dB, dWeight, dBias, dx };
        for (const [name, tensor] of Object.entries(all))
          outputsRead[`${indexed ? "by token" : "in order"}: ${name}`] = await s.read(tensor);
      }
      return outputsRead;
    },
  };
}

const cases = [
  ...shapes.flatMap((size) => weights.map((weight) => groupedCase(size, weight))),
  ...[shapes[3]!, shapes[6]!].map((size) => groupedCase(size, weights[1]!, true)),
];

const gradients: GradientCase[] = [
  {
    name: "groupedLinear by token and in order, with biases and adapters",
    inputs: [
      [4, 6],
      [4, 3],
    ],
    parameters: [
      [3, 5, 6],
      [3, 5],
      [3 * 2, 6],
      [3, 5, 2],
      [3, 4, 5],
      [3, 4, 1],
      [3, 5],
    ],
    build(_s, tape, [x, logits], [w, bias, a, b, w2, b2, a2]) {
      const routing = route(tape, logits!, 2, false);
      const h = groupedOp(
        tape,
        x!,
        routing,
        { weight: { parameter: w! }, bias: bias!, adapter: { a: a!, b: b!, scale: 0.7 } },
        { spread: true, few: false },
      );
      const z = groupedOp(
        tape,
        h,
        routing,
        { weight: { parameter: w2! }, adapter: { a: a2!, b: b2!, scale: 2 } },
        { spread: false, few: false },
      );
      return combineOp(tape, z, routing);
    },
  },
];

/** Experts of 30B-A3B's layers, 16 of them as if cut out of it and all 128. */
function speed(backward: boolean): SpeedCase[] {
  return (
    [
      [512, 16, 8, 2048, 1536, 8],
      [512, 16, 8, 768, 2048, 8],
      [512, 128, 8, 2048, 1536, 8],
      [1, 16, 8, 2048, 1536, 0],
    ] as const
  ).map(([tokens, experts, k, inputs, outputs, rank]) => ({
    product: true,
    name: `${backward ? "groupedLinearBackward" : "groupedLinear"} t=${tokens} experts=${experts} k=${k} in=${inputs} out=${outputs} bf16 r=${rank}`,
    flops: 2 * tokens * k * (inputs * outputs + (backward ? 2 : 1) * rank * (inputs + outputs)),
    prepare(s: Stage): ReturnType<SpeedCase["prepare"]> {
      const size = shape(tokens, experts, k, inputs, outputs, rank);
      const rows = rowsOf(s, size, true, false);
      const weight = s.random([experts, outputs, inputs], 3, 0.05, "bf16");
      const x = s.random([tokens, inputs], 1);
      const count = tokens * k;
      const adapter = rank
        ? {
            ...{ a: s.random([experts * rank, inputs], 4), b: s.random([experts, outputs, rank], 5) },
            ...{ scale: 2, u: s.zeros([count, rank]) },
            ...{ dA: s.zeros([experts * rank, inputs]), dB: s.zeros([experts, outputs, rank]) },
          }
        : undefined;
      const y = s.random([count, outputs], 2);
      if (!backward) {
        return { call: () => s.backend.groupedLinear(x, rows, { weight, adapter, y }), outputs: { y } };
      }
      const dx = s.zeros([count, inputs]);
      const part = { weight, dy: y, adapter };
      return { call: () => s.backend.groupedLinearBackward(x, rows, part, dx), outputs: { dx } };
    },
  }));
}

export const groupedLinear: KernelSpec = {
  name: "groupedLinear",
  cases,
  gradients,
  speed: speed(false),
  threads: cases.filter(({ name }) => /(bf16|nested) \[(16|130),/.test(name)),
};
/** Its cases are groupedLinear's: each runs both. */
export const groupedLinearBackward: KernelSpec = {
  name: "groupedLinearBackward",
  cases: [],
  speed: speed(true),
  threads: [],
};
