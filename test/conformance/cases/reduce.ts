// Kernels that reduce a tensor to one number: sum, sumSquares, countNonFinite.

import type { Stage } from "../stage.ts";
import { casesOf, elementCounts, type KernelSpec, speedOf } from "./case.ts";

const large = { n: 512 * 576 };

const reduction = (kernel: "sum" | "sumSquares"): KernelSpec => ({
  name: kernel,
  cases: casesOf(
    kernel,
    elementCounts.map((n) => ({ sizes: { n }, bound: 2 })),
  ),
  speed: speedOf(kernel, [{ sizes: large }]),
  threads: casesOf(kernel, [{ sizes: { n: 100_003 } }]),
});
export const sum = reduction("sum");
export const sumSquares = reduction("sumSquares");

const counted = (n: number, type: "f32" | "bf16" | "f16") => ({
  sizes: { n },
  label: type,
  make: (s: Stage) => ({
    x: s.values(
      [n],
      Float32Array.from({ length: n }, (_, i) =>
        i % 50 === 3 ? Number.NaN : i % 70 === 5 ? Number.NEGATIVE_INFINITY : i % 60000,
      ),
      type,
    ),
  }),
});

export const countNonFinite: KernelSpec = {
  name: "countNonFinite",
  cases: casesOf(
    "countNonFinite",
    (["f32", "bf16", "f16"] as const).flatMap((type) => [0, 1, 333, 9001].map((n) => counted(n, type))),
    { exact: true },
  ),
  speed: speedOf(
    "countNonFinite",
    (["f32", "bf16"] as const).map((type) => counted(large.n, type)),
  ),
  threads: casesOf("countNonFinite", [counted(100_003, "f32")]),
};
