// rmsNorm and its backward pass, overwriting and accumulating, with and without each of its gradients.

import { rmsNorm as rmsNormOp } from "../../../src/autograd/ops/layers.ts";
import { casesOf, type KernelSpec, rowShapes, speedOf } from "./case.ts";

const epsilon = 1e-5;
const large = { n: 512, c: 576 };
const shared = { n: 150, c: 260 };

export const rmsNorm: KernelSpec = {
  name: "rmsNorm",
  cases: casesOf(
    "rmsNorm",
    rowShapes.flatMap(([n, c]) =>
      [0, 1].map((shift) => ({ sizes: { n, c }, given: { shift, epsilon }, bound: 2 })),
    ),
  ),
  gradients: [
    {
      name: "rmsNorm",
      inputs: [[4, 6]],
      parameters: [[6]],
      build: (_s, tape, [x], [w]) => rmsNormOp(tape, x!, w!, { epsilon }),
    },
    {
      name: "rmsNorm by heads",
      inputs: [[4, 6]],
      parameters: [[3]],
      build: (_s, tape, [x], [w]) => rmsNormOp(tape, x!, w!, { epsilon }),
    },
    {
      name: "rmsNorm of 1 + w on a residual",
      inputs: [
        [4, 6],
        [4, 6],
      ],
      parameters: [[6]],
      build: (_s, tape, [x, residual], [w]) =>
        rmsNormOp(tape, x!, w!, { epsilon, shift: 1, residual: residual! }),
    },
  ],
  speed: speedOf("rmsNorm", [{ sizes: large, given: { shift: 0, epsilon } }]),
  threads: casesOf("rmsNorm", [{ sizes: shared, given: { shift: 1, epsilon } }]),
};

export const rmsNormBackward: KernelSpec = {
  name: "rmsNormBackward",
  cases: casesOf(
    "rmsNormBackward",
    rowShapes.flatMap(([n, c]) =>
      [false, true].map((accumulate) => ({
        sizes: { n, c },
        given: { accumulate, shift: accumulate ? 1 : 0 },
        bound: 2,
      })),
    ),
  ),
  speed: speedOf("rmsNormBackward", [{ sizes: large, given: { accumulate: false, shift: 0 } }]),
  threads: casesOf("rmsNormBackward", [{ sizes: shared, given: { accumulate: true, shift: 1 } }]),
};
