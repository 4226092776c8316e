// Every op's backward pass against central finite differences, on the double-precision reference.

import { describe, expect, it } from "vitest";
import { attention, rope } from "../../src/autograd/ops/attention.ts";
import { headLoss } from "../../src/autograd/ops/head-loss.ts";
import { embedding, gatedActivation, rmsNorm } from "../../src/autograd/ops/layers.ts";
import { linear } from "../../src/autograd/ops/linear.ts";
import { checkpoint, type Parameter, Tape, type Value } from "../../src/autograd/tape.ts";
import { openReference } from "../../src/backend/reference.ts";
import { encodeFrom } from "../../src/tensor/dtype.ts";
import { Stage } from "./kernel-cases.ts";

// Central differences with step 1e-5 in double precision are good to about 1e-9; 1e-6 leaves room for curvature.
const step = 1e-5;
const tolerance = 1e-6;

interface Check {
  readonly name: string;
  /** Shapes of the values and of the parameters that are differentiated. */
  readonly inputs: readonly (readonly number[])[];
  readonly parameters?: readonly (readonly number[])[];
  build(stage: Stage, tape: Tape, inputs: Value[], parameters: Parameter[]): Value;
}

const checks: Check[] = [
  {
    name: "linear with bias, residual, two adapters and dropout",
    inputs: [
      [5, 6],
      [5, 4],
    ],
    parameters: [[4, 6], [4], [2, 6], [4, 2], [3, 6], [2, 6], [3, 2], [4, 3]],
    build(_s, tape, [x, r], [w, bias, a, b, w2, a2, b2, w3]) {
      const [y, z] = linear(tape, x!, [
        { weight: { parameter: w! }, bias: bias!, residual: r!, adapter: { a: a!, b: b!, scale: 0.7 } },
        {
          weight: { parameter: w2! },
          adapter: { a: a2!, b: b2!, scale: 2, dropout: { p: 0.3, seed: 3, stream: 4 } },
        },
      ]);
      return linear(tape, z!, [{ weight: { parameter: w3! }, residual: y! }])[0]!;
    },
  },
  {
    name: "rmsNorm",
    inputs: [[4, 6]],
    parameters: [[6]],
    build: (_s, tape, [x], [w]) => rmsNorm(tape, x!, w!, 1e-5),
  },
  {
    name: "rmsNorm by heads",
    inputs: [[4, 6]],
    parameters: [[3]],
    build: (_s, tape, [x], [w]) => rmsNorm(tape, x!, w!, 1e-5),
  },
  ...(["silu", "gelu", "geluTanh"] as const).map((kind) => ({
    name: `gatedActivation ${kind}`,
    inputs: [
      [3, 5],
      [3, 5],
    ],
    build: (_s: Stage, tape: Tape, [gate, up]: Value[]) => gatedActivation(tape, kind, gate!, up!),
  })),
  ...(
    [
      [0, 2],
      [3, 2],
      [0, 4],
    ] as const
  ).map(([window, headWidth]) => ({
    name: `rope of 2 of ${headWidth} elements and attention over packed sequences, window ${window}`,
    inputs: [
      [9, 8],
      [9, 4],
      [9, 4],
    ],
    build(s: Stage, tape: Tape, [q, k, v]: Value[]) {
      const positions = s.ints([9], [0, 1, 2, 3, 4, 0, 1, 2, 3]);
      const tables = { cos: s.random([5, 1], 1), sin: s.random([5, 1], 2) };
      const identity = s.values(
        [8, 8],
        Float64Array.from({ length: 64 }, (_, i) => (i % 9 === 0 ? 1 : 0)),
      );
      const q2 = linear(tape, q!, [{ weight: { frozen: identity } }])[0]!;
      const rotated = rope(tape, q2, headWidth, positions, tables);
      return attention(tape, rotated, k!, v!, {
        heads: 8 / headWidth,
        kvHeads: 4 / headWidth,
        headWidth,
        segments: s.segments([
          [5, 5],
          [4, 4],
        ]),
        window,
        scale: 0.8,
      });
    },
  })),
  {
    name: "embedding",
    inputs: [],
    parameters: [[5, 3]],
    build: (s, tape, _inputs, [table]) => embedding(tape, s.ints([4], [1, 4, 1, 0]), table!),
  },
  {
    name: "head and cross-entropy in chunks over some of the tokens",
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
    name: "checkpointed block with a shared input",
    inputs: [[4, 6]],
    parameters: [[6], [2, 6], [6, 2], [6, 6]],
    build(_s, tape, [x], [norm, a, b, w]) {
      const block = (t: Tape, input: Value) => {
        const h = rmsNorm(t, input, norm!, 1e-5);
        return linear(t, h, [
          { weight: { parameter: w! }, residual: input, adapter: { a: a!, b: b!, scale: 1.5 } },
        ])[0]!;
      };
      return checkpoint(tape, checkpoint(tape, x!, block), block);
    },
  },
];

describe("gradients by finite differences", () => {
  it.each(checks)("$name", async (check) => {
    const backend = openReference("f64");
    const stage = new Stage(backend);
    const inputs = check.inputs.map((shape, i) => stage.random(shape, 100 + i));
    const parameters = (check.parameters ?? []).map((shape, i) => ({
      name: `p${i}`,
      tensor: stage.random(shape, 200 + i),
      grad: stage.zeros(shape),
    }));

    // L = sum of y * weights, with fixed weights; losses that start their own backward use weights of one.
    const evaluate = async (grads: boolean): Promise<{ loss: number; dInputs: Float64Array[] }> => {
      using tape = new Tape(backend, grads);
      const values = inputs.map((tensor) => tape.input(tensor, true));
      const y = check.build(stage, tape, values, parameters);
      tape.run([y]);
      const data = new Float64Array((await backend.read(y.data.buffer)).buffer);
      const weights = Float64Array.from(data, (_, i) =>
        check.name.startsWith("head") ? 1 : Math.sin(i + 1),
      );
      const loss = data.reduce((sum, value, i) => sum + value * weights[i]!, 0);
      if (!grads) return { loss, dInputs: [] };
      if (check.name.startsWith("head")) tape.backward();
      else {
        const seed = tape.allocateTensor(y.shape, "activations");
        backend.write(seed.buffer, encodeFrom(weights, "f64"));
        tape.backward({ value: y, grad: seed });
      }
      const dInputs = await Promise.all(
        values.map(async (v) => new Float64Array((await backend.read(v.grad!.buffer)).buffer)),
      );
      return { loss, dInputs };
    };

    const { dInputs } = await evaluate(true);
    const analytic = [
      ...dInputs,
      ...(await Promise.all(
        parameters.map(async (p) => new Float64Array((await backend.read(p.grad.buffer)).buffer)),
      )),
    ];
    for (const [t, tensor] of [...inputs, ...parameters.map((p) => p.tensor)].entries()) {
      const original = new Float64Array((await backend.read(tensor.buffer)).buffer);
      for (let i = 0; i < original.length; i++) {
        const at = async (value: number) => {
          const moved = original.slice();
          moved[i] = value;
          backend.write(tensor.buffer, encodeFrom(moved, "f64"));
          return (await evaluate(false)).loss;
        };
        const numeric = ((await at(original[i]! + step)) - (await at(original[i]! - step))) / (2 * step);
        backend.write(tensor.buffer, encodeFrom(original, "f64"));
        expect(Math.abs(numeric - analytic[t]![i]!), `tensor ${t} element ${i}`).toBeLessThan(
          tolerance * Math.max(1, Math.abs(numeric)),
        );
      }
    }
  });
});
