// Every op's backward pass against central finite differences, on the double-precision reference. The cases stand beside
// those of their kernels (cases/); what is made of several ops is here.

import { describe, expect, it } from "vitest";
import { gatedActivation, rmsNorm } from "../../src/autograd/ops/layers.ts";
import { linear } from "../../src/autograd/ops/linear.ts";
import { checkpoint, type Parameter, Tape, type Value } from "../../src/autograd/tape.ts";
import { openReference } from "../../src/backend/reference.ts";
import { encodeFrom } from "../../src/tensor/dtype.ts";
import type { GradientCase } from "./cases/case.ts";
import { kernelSpecs } from "./cases/index.ts";
import { Stage } from "./stage.ts";

// Central differences with step 1e-5 in double precision are good to about 1e-9; 1e-6 leaves room for curvature.
const step = 1e-5;
const tolerance = 1e-6;

const checks: GradientCase[] = [
  ...Object.values(kernelSpecs).flatMap(({ gradients }) => gradients ?? []),
  {
    name: "checkpointed block with a shared input",
    inputs: [[4, 6]],
    parameters: [[6], [2, 6], [6, 2], [6, 6]],
    build(_s, tape, [x], [norm, a, b, w]) {
      const block = (t: Tape, [input]: readonly Value[]) => {
        const h = rmsNorm(t, input!, norm!, { epsilon: 1e-5 });
        return linear(t, h, [
          { weight: { parameter: w! }, residual: input, adapter: { a: a!, b: b!, scale: 1.5 } },
        ]);
      };
      const { shape } = x!;
      return checkpoint(tape, checkpoint(tape, [x!], [shape], block), [shape], block)[0]!;
    },
  },
  {
    name: "checkpointed blocks that read what an earlier one handed on",
    inputs: [[4, 6]],
    parameters: [
      [6, 6],
      [6, 6],
    ],
    build(_s, tape, [x], [u, w]) {
      const { shape } = x!;
      const product = (t: Tape, input: Value, parameter: Parameter) =>
        linear(t, input, [{ weight: { parameter } }])[0]!;
      const first = (t: Tape, [input]: readonly Value[]) => [product(t, input!, u!), product(t, input!, w!)];
      const later = (t: Tape, [input, handed]: readonly Value[]) => [
        gatedActivation(t, "silu", product(t, input!, w!), handed!),
      ];
      const [stream, handed] = checkpoint(tape, [x!], [shape, shape], first) as [Value, Value];
      const [second] = checkpoint(tape, [stream, handed], [shape], later) as [Value];
      return checkpoint(tape, [second, handed], [shape], later)[0]!;
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
      const weights = Float64Array.from(data, (_, i) => (check.isLoss ? 1 : Math.sin(i + 1)));
      const loss = data.reduce((sum, value, i) => sum + value * weights[i]!, 0);
      if (!grads) return { loss, dInputs: [] };
      if (check.isLoss) tape.backward();
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
      ...(await Promise.all(parameters.map(async (p) => new Float64Array((await stage.raw(p.grad)).buffer)))),
    ];
    for (const [t, tensor] of [...inputs, ...parameters.map((p) => p.tensor)].entries()) {
      const original = new Float64Array((await stage.raw(tensor)).buffer);
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
