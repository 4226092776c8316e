// Kernels that take elements one by one: fill, addInPlace, scaleInPlace, cast, fillUniform.

import { addScaled } from "../../../src/autograd/ops/layers.ts";
import { linear } from "../../../src/autograd/ops/linear.ts";
import { Random } from "../../../src/util/rng.ts";
import type { Stage } from "../stage.ts";
import { casesOf, elementCounts, type KernelSpec, speedOf } from "./case.ts";

/** For several threads, with a tail. */
const shared = { n: 100_003 };
/** A residual stream of 512 tokens of the 135M shape. */
const large = { n: 512 * 576 };

export const fill: KernelSpec = {
  name: "fill",
  cases: casesOf(
    "fill",
    elementCounts.map((n) => ({ sizes: { n }, given: { value: 0.25 } })),
    { exact: true },
  ),
  speed: speedOf("fill", [{ sizes: large, given: { value: 0 } }]),
  threads: casesOf("fill", [{ sizes: shared, given: { value: 2 } }]),
};

export const addInPlace: KernelSpec = {
  name: "addInPlace",
  cases: casesOf(
    "addInPlace",
    elementCounts.map((n) => ({ sizes: { n } })),
  ),
  speed: speedOf("addInPlace", [{ sizes: large }]),
  threads: casesOf("addInPlace", [{ sizes: shared }]),
};

export const scaleInPlace: KernelSpec = {
  name: "scaleInPlace",
  cases: casesOf(
    "scaleInPlace",
    elementCounts.map((n) => ({ sizes: { n }, given: { factor: -1.5 } })),
  ),
  gradients: [
    {
      name: "addScaled",
      inputs: [
        [4, 3],
        [4, 5],
      ],
      parameters: [[3, 5]],
      build(_s, tape, [x, y], [w]) {
        const [product] = linear(tape, y!, [{ weight: { parameter: w! } }]);
        return addScaled(tape, x!, product!, 0.3);
      },
    },
  ],
  speed: speedOf("scaleInPlace", [{ sizes: large, given: { factor: 1 } }]),
  threads: casesOf("scaleInPlace", [{ sizes: shared, given: { factor: 3 } }]),
};

const awkward = [
  0,
  -0,
  1,
  -1,
  65504,
  1e-8,
  6e-5,
  3.0517578,
  1 / 3,
  1e5,
  -123456,
  2.5,
  1.00390625,
  1.01171875,
];

function castOperands(s: Stage, n: number, from: "f32" | "bf16" | "f16", to: "f32" | "bf16" | "f16") {
  const noise = new Random(9);
  const x = s.values(
    [n],
    Float32Array.from({ length: n }, (_, i) => awkward[i] ?? noise.nextNormal()),
    from,
  );
  return { x, y: s.zeros([n], to) };
}

const casts = [
  ["f32", "bf16"],
  ["f32", "f16"],
  ["bf16", "f32"],
  ["f16", "f32"],
  ["f16", "bf16"],
] as const;

export const cast: KernelSpec = {
  name: "cast",
  cases: casesOf(
    "cast",
    casts.flatMap(([from, to]) =>
      [1, 77, 200].map((n) => ({
        sizes: { n },
        label: `${from} to ${to}`,
        make: (s: Stage) => castOperands(s, n, from, to),
      })),
    ),
  ),
  speed: speedOf(
    "cast",
    casts.map(([from, to]) => ({
      sizes: large,
      label: `${from} to ${to}`,
      make: (s: Stage) => castOperands(s, large.n, from, to),
    })),
  ),
  threads: casesOf("cast", [{ sizes: shared, make: (s) => castOperands(s, shared.n, "f32", "bf16") }]),
};

const uniform = { bound: 0.3, seed: 2 ** 40 + 12345, stream: 7 };

export const fillUniform: KernelSpec = {
  name: "fillUniform",
  cases: casesOf(
    "fillUniform",
    ([undefined, "bf16", "f16"] as const).map((type) => ({
      sizes: { n: 1003 },
      given: uniform,
      label: type,
      make: (s: Stage) => ({ y: s.zeros([1003], type) }),
    })),
  ),
  speed: speedOf("fillUniform", [{ sizes: large, given: uniform }]),
  threads: casesOf("fillUniform", [{ sizes: shared, given: uniform }]),
};
