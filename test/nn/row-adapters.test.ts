// Rows with adapters of their own in one pass: what a row comes to does not depend on whose rows are beside it, to the last
// bit, also where another's adapter scales its products (DoRA) and takes bias and residual last.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { linear, type RowAdapter } from "../../src/autograd/ops/linear.ts";
import type { Parameter } from "../../src/autograd/tape.ts";
import { Tape } from "../../src/autograd/tape.ts";
import type { Backend, Tensor } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { decodeToF32, encodeFrom } from "../../src/tensor/dtype.ts";
import { viewOf } from "../../src/tensor/tensor.ts";
import { Random } from "../../src/util/rng.ts";

// Deep enough that products are summed in several blocks.
const [inputs, outputs, rank] = [1500, 48, 4];

describe.each(["reference", "cpu"] as const)("%s", (name) => {
  let backend: Backend | undefined;
  beforeAll(async () => {
    backend = await openBackend(name, { precision: "fp32", threads: 1 }).catch(() => undefined);
  });
  afterAll(() => backend?.close());

  it("a scaled adapter changes no bit of other rows", async ({ skip }) => {
    if (!backend) return skip(`no ${name} here`);
    const device = backend;
    const random = new Random(7);
    const tensor = (shape: readonly number[]): Tensor => {
      const values = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random.nextNormal());
      const buffer = device.allocate(4 * values.length, "workspace");
      device.write(buffer, encodeFrom(values, "f32"));
      return viewOf(buffer, shape, "f32");
    };
    const parameter = (shape: readonly number[]): Parameter => ({ tensor: tensor(shape) }) as Parameter;
    const [x, residual] = [tensor([6, inputs]), tensor([6, outputs])];
    const [weight, bias, columns] = [parameter([outputs, inputs]), parameter([outputs]), tensor([outputs])];
    const adapter = (start: number, end: number): RowAdapter => ({
      ...{ start, end, a: parameter([rank, inputs]), b: parameter([outputs, rank]), scale: 0.5 },
    });
    const [plain, scaled] = [adapter(1, 3), { ...adapter(3, 5), columns }];
    const run = async (rowAdapters: readonly RowAdapter[]): Promise<Float32Array> => {
      using tape = new Tape(device, false);
      const [y] = linear(tape, tape.input(x), [
        { weight: { parameter: weight }, bias, residual: tape.input(residual), rowAdapters },
      ]);
      tape.run([y!]);
      return decodeToF32(await device.read(y!.data.buffer), "f32").slice(0, 6 * outputs);
    };
    const [alone, together, other] = [await run([plain]), await run([plain, scaled]), await run([scaled])];
    const rowsOf = (values: Float32Array, from: number, to: number) =>
      values.slice(from * outputs, to * outputs);
    expect(rowsOf(together, 0, 3)).toEqual(rowsOf(alone, 0, 3));
    expect(rowsOf(together, 5, 6)).toEqual(rowsOf(alone, 5, 6));
    expect(rowsOf(together, 3, 5)).toEqual(rowsOf(other, 3, 5));
    expect(rowsOf(together, 3, 5)).not.toEqual(rowsOf(alone, 3, 5));
  });
});
