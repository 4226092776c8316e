// Kernels that move rows: gatherRows, scatterRows, embedding and its backward pass.

import { embedding as embeddingOp } from "../../../src/autograd/ops/layers.ts";
import type { Stage } from "../stage.ts";
import { type Call, casesOf, type KernelSpec, rowShapes, speedOf } from "./case.ts";

/** Rows of a table of `count` that all differ while there are enough. */
const someRows = (m: number, count: number) => Array.from({ length: m }, (_, i) => (i * 7 + 2) % count);
const differentRows = (m: number, count: number) => {
  const rows = someRows(m, count);
  return new Set(rows).size === m ? rows : rows.map((_, i) => i);
};

const large = { m: 512, rows: 512, c: 576 };
const shared = { m: 150, rows: 150, c: 260 };

export const gatherRows: KernelSpec = {
  name: "gatherRows",
  cases: casesOf(
    "gatherRows",
    rowShapes.map(([m, c]) => ({
      sizes: { m, c, rows: m + 5 },
      make: (s: Stage) => ({ index: s.ints([m], someRows(m, m + 5)) }),
    })),
    { exact: true },
  ),
  speed: speedOf("gatherRows", [
    { sizes: large, make: (s) => ({ index: s.ints([large.m], someRows(large.m, large.rows)) }) },
  ]),
  threads: casesOf("gatherRows", [
    { sizes: shared, make: (s) => ({ index: s.ints([shared.m], someRows(shared.m, shared.rows)) }) },
  ]),
};

export const scatterRows: KernelSpec = {
  name: "scatterRows",
  cases: casesOf(
    "scatterRows",
    rowShapes.map(([m, c]) => ({
      sizes: { m, c, rows: m + 5 },
      make: (s: Stage) => ({ index: s.ints([m], differentRows(m, m + 5)) }),
    })),
    { exact: true },
  ),
  speed: speedOf("scatterRows", [
    { sizes: large, make: (s) => ({ index: s.ints([large.m], differentRows(large.m, large.rows)) }) },
  ]),
  threads: casesOf("scatterRows", [
    { sizes: shared, make: (s) => ({ index: s.ints([shared.m], differentRows(shared.m, shared.rows)) }) },
  ]),
};

const lookup = (t: number, c: number, v: number, type?: "bf16" | "f16"): Call<"embedding"> => ({
  sizes: { t, c, v },
  label: type,
  make: (s) => ({ ids: s.ints([t], someRows(t, v)), table: s.random([v, c], 6, 1, type) }),
});

export const embedding: KernelSpec = {
  name: "embedding",
  cases: casesOf(
    "embedding",
    rowShapes.flatMap(([t, c]) =>
      ([undefined, "bf16", "f16"] as const).map((type) => lookup(t, c, t + 5, type)),
    ),
  ),
  gradients: [
    {
      name: "embedding",
      inputs: [],
      parameters: [[5, 3]],
      build: (s, tape, _inputs, [table]) => embeddingOp(tape, s.ints([4], [1, 4, 1, 0]), table!),
    },
  ],
  speed: speedOf("embedding", [lookup(512, 576, 49152, "bf16")]),
  threads: casesOf("embedding", [lookup(150, 260, 99, "bf16")]),
};

const repeated = (t: number, c: number, v: number): Call<"embeddingBackward"> => ({
  sizes: { t, c, v },
  make: (s) => ({
    ids: s.ints(
      [t],
      someRows(t, v).map((id) => id % 3),
    ),
  }),
});

export const embeddingBackward: KernelSpec = {
  name: "embeddingBackward",
  cases: casesOf(
    "embeddingBackward",
    rowShapes.map(([t, c]) => repeated(t, c, t + 5)),
  ),
  speed: speedOf("embeddingBackward", [repeated(512, 576, 49152)]),
  threads: casesOf("embeddingBackward", [repeated(150, 260, 7)]),
};
