// Kernels by column and dropout by itself, and the ops of adapters that scale a layer's outputs.

import {
  columnScale,
  scaleColumns as scaleOp,
  splitByDropout,
  splitColumns,
} from "../../../src/autograd/ops/columns.ts";
import { linear } from "../../../src/autograd/ops/linear.ts";
import type { Stage } from "../stage.ts";
import { casesOf, elementCounts, type KernelSpec, rowShapes, speedOf } from "./case.ts";

const large = { t: 512, o: 1536 };
const shared = { t: 333, o: 261 };
const mask = { p: 0.3, seed: 2 ** 33 + 5, stream: 9 };

export const dropout: KernelSpec = {
  name: "dropout",
  cases: casesOf(
    "dropout",
    elementCounts.map((n) => ({ sizes: { n }, given: mask })),
  ),
  gradients: [
    {
      name: "splitByDropout",
      inputs: [[4, 6]],
      parameters: [
        [3, 6],
        [3, 6],
      ],
      build(_s, tape, [x], [v, w]) {
        const { kept, rest } = splitByDropout(tape, x!, { ...mask, p: 0.5 });
        const [first] = linear(tape, rest, [{ weight: { parameter: v! } }]);
        return linear(tape, kept, [{ weight: { parameter: w! }, residual: first }])[0]!;
      },
    },
  ],
  speed: speedOf("dropout", [{ sizes: { n: 512 * 576 }, given: mask }]),
  threads: casesOf("dropout", [{ sizes: { n: 100_003 }, given: mask }]),
};

export const scaleColumns: KernelSpec = {
  name: "scaleColumns",
  cases: casesOf(
    "scaleColumns",
    rowShapes.map(([t, o]) => ({ sizes: { t, o } })),
  ),
  gradients: [
    {
      // The norm is a constant of the backward pass, so only what it does not depend on has differences to hold it to.
      name: "scaled columns with bias and residual",
      inputs: [
        [4, 5],
        [4, 3],
      ],
      parameters: [[3], [3]],
      build(s, tape, [x, residual], [magnitude, bias]) {
        const frozen = (shape: number[], seed: number) => ({ name: "", tensor: s.random(shape, seed) });
        const [a, b, weight] = [frozen([2, 5], 31), frozen([3, 2], 32), s.random([3, 5], 33)];
        const squares = s.values([3], [4, 5, 6]);
        const spec = { weight, squares, magnitude: magnitude!, a, b, scale: 0.7 };
        const columns = columnScale(tape, spec);
        const [y] = linear(tape, x!, [{ weight: { frozen: weight }, adapter: { a, b, scale: 0.7 } }]);
        return scaleOp(tape, y!, columns, { bias: bias!, residual: residual! });
      },
    },
  ],
  speed: speedOf("scaleColumns", [{ sizes: large }]),
  threads: casesOf("scaleColumns", [{ sizes: shared }]),
};

export const copyColumns: KernelSpec = {
  name: "copyColumns",
  cases: casesOf(
    "copyColumns",
    (
      [
        [0, 4, 4, 0, 0, 2],
        [1, 1, 1, 0, 0, 1],
        [5, 7, 3, 4, 0, 3],
        [33, 96, 160, 32, 100, 60],
        [3, 2049, 2049, 1, 0, 2048],
      ] as const
    ).map(([t, n, m, from, to, count]) => ({ sizes: { t, n, m }, given: { from, to, count } })),
    { exact: true },
  ),
  gradients: [
    {
      name: "split columns, one of them read twice and one not at all",
      inputs: [[3, 8]],
      parameters: [
        [2, 3],
        [2, 3],
      ],
      build(_s, tape, [x], [v, w]) {
        const [first] = splitColumns(tape, x!, [3, 4, 1]);
        const [once] = linear(tape, first!, [{ weight: { parameter: v! } }]);
        return linear(tape, first!, [{ weight: { parameter: w! }, residual: once }])[0]!;
      },
    },
  ],
  speed: speedOf("copyColumns", [
    { sizes: { t: 512, n: 1536, m: 1024 }, given: { from: 0, to: 0, count: 1024 } },
  ]),
  threads: casesOf("copyColumns", [
    { sizes: { t: 333, n: 261, m: 400 }, given: { from: 60, to: 130, count: 200 } },
  ]),
};

/** Divisors away from zero. */
const divisors = (o: number) => (s: Stage) => ({
  divisor: s.values(
    [o],
    Float32Array.from({ length: o }, (_, i) => 0.5 + (i % 7)),
  ),
});

export const addColumnDots: KernelSpec = {
  name: "addColumnDots",
  cases: casesOf(
    "addColumnDots",
    rowShapes.map(([t, o]) => ({ sizes: { t, o }, make: divisors(o) })),
  ),
  speed: speedOf("addColumnDots", [{ sizes: large, make: divisors(large.o) }]),
  threads: casesOf("addColumnDots", [{ sizes: shared, make: divisors(shared.o) }]),
};

/** Squared norms that no random update undoes; the second row's sum is below zero, as rounding may leave one of zeros. */
const squares =
  ({ o, r }: { o: number; r: number }) =>
  (s: Stage) => ({
    squares: s.values(
      [o],
      Float32Array.from({ length: o }, (_, i) => (i === 1 ? -8 * r : 8 * r + i)),
    ),
  });

export const magnitudeFactors: KernelSpec = {
  name: "magnitudeFactors",
  cases: casesOf(
    "magnitudeFactors",
    (
      [
        [1, 1],
        [3, 2],
        [17, 8],
        [200, 5],
        [65, 33],
      ] as const
    ).map(([o, r]) => ({ sizes: { o, r }, given: { scale: 0.8 }, make: squares({ o, r }) })),
  ),
  speed: speedOf("magnitudeFactors", [
    { sizes: { o: 1536, r: 8 }, given: { scale: 2 }, make: squares({ o: 1536, r: 8 }) },
  ]),
  threads: casesOf("magnitudeFactors", [
    { sizes: { o: 5003, r: 9 }, given: { scale: 2 }, make: squares({ o: 5003, r: 9 }) },
  ]),
};
