// Cross-entropy with its gradient, in place of the logits and not, and without; and the head's loss in chunks.

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
  ],
  speed: speedOf("crossEntropy", [call(170, 49152)]),
  threads: casesOf("crossEntropy", [call(37, 2003)]),
};
