// Updates of parameters (AdamW, AdamW on 8-bit moments, Lion) over a few steps, clipped and not: what the third step leaves depends on all of it.

import type { Tensor } from "../../../src/backend/backend.ts";
import { momentBlockSize } from "../../../src/backend/contract.ts";
import { signedDynamicMap, unsignedDynamicMap } from "../../../src/quant/dynamic-map.ts";
import type { Stage } from "../stage.ts";
import { type KernelCase, type KernelSpec, speedOf } from "./case.ts";

const constants = { learningRate: 1e-2, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.1 };
/** Trained numbers of rank 8 on every linear layer of the 135M shape. */
const large = 2_442_240;

/** Parameters, gradients and, where they are clipped, by what. */
function updateOperands(s: Stage, count: number, clipped: boolean) {
  const [params, grads] = [s.random([count], 1), s.random([count], 2, 0.1)];
  const [sumSquares, factor] = [s.zeros([1]), s.values([1], [1])];
  s.backend.sumSquares({ x: grads, out: sumSquares });
  s.backend.clipFactor({ sumSquares, losses: grads, maxNorm: 0.5, factor });
  return { params, grads, factor: clipped ? factor : undefined };
}

/** What two updates leave of which the second is held back: the first's, to the last bit. */
async function heldBack(s: Stage, count: number, update: (factor: Tensor) => Record<string, Tensor>) {
  const state = update(s.values([1], [0.5]));
  const before = await Promise.all(Object.values(state).map((tensor) => s.raw(tensor)));
  update(s.values([1], [-1]));
  const after = await Promise.all(Object.values(state).map((tensor) => s.raw(tensor)));
  const changed = before.map((bytes, i) => bytes.filter((byte, at) => byte !== after[i]![at]).length);
  if (s.computes && changed.some((bytes) => bytes > 0))
    throw new Error(`an update of ${count} that was held back changed ${changed} bytes`);
  const [name, tensor] = Object.entries(state)[0]!;
  return { [name]: await s.read(tensor) };
}

const finite = [1.5, 0, -3];
const clipCalls: readonly [string, number, readonly number[], number, number][] = [
  ["clips", 16, finite, 1, 1],
  ["has nothing to clip", 0.25, finite, 1, 1],
  ["clips nothing where the limit is 0", 16, finite, 0, 1],
  ["forgets the factor before", 16, finite, 1, 0.001],
  ["stays held back", 16, finite, 1, -1],
  ["squares that are NaN", Number.NaN, finite, 1, 1],
  ["squares that overflow", Number.POSITIVE_INFINITY, finite, 0, 1],
  ["a loss that is NaN", 16, [...finite, Number.NaN], 1, 1],
  ["a late loss that is infinite", 16, [...new Array(700).fill(2), Number.NEGATIVE_INFINITY], 1, 1],
];

export const clipFactor: KernelSpec = {
  name: "clipFactor",
  cases: clipCalls.map(([what, squares, values, maxNorm, before]) => ({
    name: `clipFactor ${what}`,
    async run(s: Stage) {
      const [sumSquares, losses, factor] = [[squares], values, [before]].map((list) =>
        s.values([list.length], list),
      ) as [Tensor, Tensor, Tensor];
      s.backend.clipFactor({ sumSquares, losses, maxNorm, factor });
      return { factor: await s.read(factor) };
    },
  })),
  threads: [],
  speed: speedOf("clipFactor", [{ sizes: { n: 64 }, given: { maxNorm: 1 } }]),
};

function adamwCases(...counts: number[]): KernelCase[] {
  return counts.flatMap((count) =>
    [false, true].map((clipped) => ({
      name: `adamw n=${count} ${clipped ? "clipped" : "unclipped"}`,
      async run(s: Stage) {
        const operands = updateOperands(s, count, clipped);
        const [m, v] = [s.zeros([count]), s.zeros([count])];
        for (let step = 1; step <= 3; step++) s.backend.adamw({ ...operands, m, v, step, ...constants });
        return { params: await s.read(operands.params), m: await s.read(m), v: await s.read(v) };
      },
    })),
  );
}

export const adamw: KernelSpec = {
  name: "adamw",
  cases: [
    ...adamwCases(1, 63, 1000),
    {
      name: "adamw held back",
      run(s) {
        const { factor: _, ...operands } = updateOperands(s, 1000, false);
        const state = { m: s.zeros([1000]), v: s.zeros([1000]) };
        return heldBack(s, 1000, (factor) => {
          s.backend.adamw({ ...operands, ...state, factor, step: 1, ...constants });
          return { params: operands.params, ...state };
        });
      },
    },
  ],
  threads: adamwCases(50_003),
  speed: speedOf("adamw", [
    {
      sizes: { count: large },
      given: { ...constants, step: 3 },
      make: (s) => ({ m: s.zeros([large]), v: s.zeros([large]) }),
    },
  ]),
};

function lionCases(...counts: number[]): KernelCase[] {
  return counts.flatMap((count) =>
    [false, true].map((clipped) => ({
      name: `lion n=${count} ${clipped ? "clipped" : "unclipped"}`,
      async run(s: Stage) {
        const operands = updateOperands(s, count, clipped);
        // Zeros among the gradients and the moment: their sign is 0, and nothing moves but by decay.
        const grads = s.values(
          [count],
          Float32Array.from({ length: count }, (_, i) => (i % 5 ? Math.sin(i) : 0)),
        );
        const m = s.zeros([count]);
        for (let step = 1; step <= 3; step++)
          s.backend.lion({
            ...operands,
            grads,
            m,
            learningRate: 1e-2,
            beta1: 0.9,
            beta2: 0.99,
            weightDecay: 0.1,
          });
        return { params: await s.read(operands.params), m: await s.read(m) };
      },
    })),
  );
}

export const lion: KernelSpec = {
  name: "lion",
  cases: [
    ...lionCases(1, 63, 1000),
    {
      name: "lion held back",
      run(s) {
        const { factor: _, ...operands } = updateOperands(s, 1000, false);
        const m = s.zeros([1000]);
        const { learningRate, beta1, beta2, weightDecay } = constants;
        return heldBack(s, 1000, (factor) => {
          s.backend.lion({ ...operands, m, factor, learningRate, beta1, beta2, weightDecay });
          return { params: operands.params, m };
        });
      },
    },
  ],
  threads: lionCases(50_003),
  speed: speedOf("lion", [
    {
      sizes: { count: large },
      given: { learningRate: 1e-2, beta1: 0.9, beta2: 0.99, weightDecay: 0.1 },
      make: (s) => ({ m: s.zeros([large]) }),
    },
  ]),
};

function moments(s: Stage, count: number) {
  const blocks = Math.ceil(count / momentBlockSize);
  const u8 = (fill: number) => s.bytes([count], new Uint8Array(count).fill(fill));
  return {
    mCodes: u8(127),
    vCodes: u8(0),
    mAbsmax: s.zeros([blocks], "f32"),
    vAbsmax: s.zeros([blocks], "f32"),
    mMap: s.values([256], signedDynamicMap, "f32"),
    vMap: s.values([256], unsignedDynamicMap, "f32"),
  };
}

function adamw8bitCases(...counts: number[]): KernelCase[] {
  return counts.flatMap((count) =>
    [false, true].map((clipped) => ({
      name: `adamw8bit n=${count} ${clipped ? "clipped" : "with non-finite gradients"}`,
      async run(s: Stage) {
        const operands = updateOperands(s, count, clipped);
        const state = moments(s, count);
        const second = Float32Array.from({ length: count }, (_, i) =>
          clipped || i % 97 !== 5 ? Math.sin(i) : [Number.NaN, Number.POSITIVE_INFINITY][i % 2]!,
        );
        for (let step = 1; step <= 3; step++) {
          const grads = step === 2 ? s.values([count], second) : operands.grads;
          s.backend.adamw8bit({ ...operands, ...state, grads, step, ...constants });
        }
        const { mCodes, vCodes, mAbsmax, vAbsmax } = state;
        const read: Record<string, Tensor> = { params: operands.params, mCodes, vCodes, mAbsmax, vAbsmax };
        const entries = Object.entries(read).map(
          async ([name, tensor]) => [name, await s.read(tensor)] as const,
        );
        return Object.fromEntries(await Promise.all(entries));
      },
    })),
  );
}

export const adamw8bit: KernelSpec = {
  name: "adamw8bit",
  cases: [
    ...adamw8bitCases(1, 255, 256, 700, 5000),
    {
      name: "adamw8bit held back",
      run(s) {
        const { factor: _, ...operands } = updateOperands(s, 700, false);
        const state = moments(s, 700);
        return heldBack(s, 700, (factor) => {
          s.backend.adamw8bit({ ...operands, ...state, factor, step: 1, ...constants });
          const { mCodes, vCodes, mAbsmax, vAbsmax } = state;
          return { params: operands.params, mCodes, vCodes, mAbsmax, vAbsmax };
        });
      },
    },
  ],
  threads: adamw8bitCases(20_003),
  speed: speedOf("adamw8bit", [
    {
      sizes: { count: large },
      given: { ...constants, step: 3 },
      make: (s) => moments(s, large),
    },
  ]),
};
