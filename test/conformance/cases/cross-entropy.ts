// Cross-entropy with its gradient, in place of the logits and not, and without; and the head's loss in chunks.

import { columnScale } from "../../../src/autograd/ops/columns.ts";
import { headLoss } from "../../../src/autograd/ops/head-loss.ts";
import { type Call, casesOf, type KernelSpec, speedOf } from "./case.ts";

const call = (n: number, v: number): Call<"crossEntropy"> => ({
  sizes: { n, v },
  given: { gradScale: 0.25 },
  bound: 30,
  make: (s) => ({
    targets: s.ints(
      [n],
      Array.from({ length: n }, (_, i) => (i * 31) % v),
    ),
  }),
});

export const crossEntropy: KernelSpec = {
  name: "crossEntropy",
  cases: casesOf("crossEntropy", [call(0, 5), call(1, 2), call(3, 17), call(9, 1000), call(2, 32003)]),
  gradients: [
    {
      name: "head and cross-entropy in chunks over some of the tokens",
      isLoss: true,
      inputs: [[6, 4]],
      parameters: [[7, 4]],
      build: (s, tape, [x], [w]) =>
        headLoss(tape, x!, {
          weight: { parameter: w! },
          rows: s.ints([4], [5, 0, 2, 3]),
          targets: s.ints([4], [6, 0, 3, 3]),
          gradScale: 1,
          chunkBytes: 4 * 7 * 3,
        }),
    },
    {
      name: "scaled and capped logits of an adapted head with magnitudes",
      isLoss: true,
      inputs: [[6, 4]],
      parameters: [[7], [2, 4], [7, 2]],
      build(s, tape, [x], [magnitude, a, b]) {
        const weight = s.random([7, 4], 41);
        // The norms are constants of the backward pass: factors that do not move when A and B do.
        const frozen = { a: { name: "", tensor: s.zeros([2, 4]) }, b: { name: "", tensor: s.zeros([7, 2]) } };
        const squares = s.values([7], [1, 2, 3, 4, 5, 6, 7]);
        const columns = columnScale(tape, { weight, squares, magnitude: magnitude!, ...frozen, scale: 1 });
        return headLoss(tape, x!, {
          weight: { parameter: { name: "", tensor: weight } },
          adapter: { a: a!, b: b!, scale: 0.7 },
          columns,
          logitScale: 0.5,
          softCap: 0.9,
          rows: s.ints([4], [5, 0, 2, 3]),
          targets: s.ints([4], [6, 0, 3, 3]),
          gradScale: 1,
          chunkBytes: 4 * 7 * 3,
        });
      },
    },
  ],
  speed: speedOf("crossEntropy", [call(170, 49152)]),
  threads: casesOf("crossEntropy", [call(37, 2003)]),
};
