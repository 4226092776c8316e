// The gated activation and its backward pass, in place and not.

import { gateRows } from "../../../src/autograd/ops/gate-rows.ts";
import { gatedActivation as gatedOp } from "../../../src/autograd/ops/layers.ts";
import { type Call, casesOf, elementCounts, type GradientCase, type KernelSpec, speedOf } from "./case.ts";

const activations = ["silu", "gelu", "geluTanh", "sigmoid", "identity"] as const;
const calls = elementCounts.flatMap((n) =>
  activations.map((activation) => ({ sizes: { n }, given: { activation }, bound: 6 })),
);
const large: Call<"gatedActivation" | "gatedActivationBackward"> = {
  sizes: { n: 512 * 1536 },
  given: { activation: "silu" },
};

export const gatedActivation: KernelSpec = {
  name: "gatedActivation",
  cases: casesOf("gatedActivation", calls),
  gradients: [
    ...activations.map(
      (kind): GradientCase => ({
        name: `gatedActivation ${kind}`,
        inputs: [
          [3, 5],
          [3, 5],
        ],
        build: (_s, tape, [gate, up]) => gatedOp(tape, kind, gate!, up!),
      }),
    ),
    {
      name: "gateRows",
      inputs: [
        [3, 1],
        [3, 5],
      ],
      build: (_s, tape, [score, x]) => gateRows(tape, score!, x!),
    },
  ],
  speed: speedOf("gatedActivation", [large as Call<"gatedActivation">]),
  threads: casesOf("gatedActivation", [{ sizes: { n: 100_003 }, given: { activation: "silu" } }]),
};

export const gatedActivationBackward: KernelSpec = {
  name: "gatedActivationBackward",
  cases: casesOf("gatedActivationBackward", calls),
  speed: speedOf("gatedActivationBackward", [large as Call<"gatedActivationBackward">]),
  threads: casesOf("gatedActivationBackward", [{ sizes: { n: 100_003 }, given: { activation: "gelu" } }]),
};
