// Kernels by column and dropout by itself, and the ops of adapters that scale a layer's outputs.

import { columnScale, scaleColumns as scaleOp, splitByDropout } from "../../../src/autograd/ops/columns.ts";
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
