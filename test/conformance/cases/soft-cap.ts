// The soft cap of logits and its backward pass, in place and not, from where tanh is nearly its argument to where it is flat.

import { softCapped } from "../../../src/autograd/ops/layers.ts";
import { linear } from "../../../src/autograd/ops/linear.ts";
import { casesOf, elementCounts, type KernelSpec, speedOf } from "./case.ts";

const large = { n: 64 * 32_000 };
const shared = { n: 100_003 };

export const softCap: KernelSpec = {
  name: "softCap",
  cases: casesOf(
    "softCap",
    elementCounts.flatMap((n) => [0.5, 30].map((cap) => ({ sizes: { n }, given: { cap }, bound: 20 }))),
  ),
  gradients: [
    {
      name: "softCapped",
      inputs: [[3, 5]],
      parameters: [[4, 5]],
      build(_s, tape, [x], [w]) {
        const [product] = linear(tape, x!, [{ weight: { parameter: w! } }]);
        return softCapped(tape, product!, 0.8);
      },
    },
  ],
  speed: speedOf("softCap", [{ sizes: large, given: { cap: 30 } }]),
  threads: casesOf("softCap", [{ sizes: shared, given: { cap: 5 }, bound: 20 }]),
};

export const softCapBackward: KernelSpec = {
  name: "softCapBackward",
  cases: casesOf(
    "softCapBackward",
    elementCounts.map((n) => ({ sizes: { n }, given: { cap: 30 }, bound: 20 })),
  ),
  speed: speedOf("softCapBackward", [{ sizes: large, given: { cap: 30 } }]),
  threads: casesOf("softCapBackward", [{ sizes: shared, given: { cap: 5 } }]),
};
