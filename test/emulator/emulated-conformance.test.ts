// The matrix tier, which no software driver offers, against the reference: kernel cases on an emulated device that runs the
// shaders' own text. Products, what prepares them, and attention; all else is the same text in every tier.

import { describe, expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import type { MatrixShape } from "../../src/backend/webgpu/device.ts";
import { backendOf, partsOn } from "../../src/backend/webgpu.ts";
import { kernelCases } from "../conformance/cases/index.ts";
import { Stage } from "../conformance/stage.ts";
import { openEmulated } from "./emulated-device.ts";

/** Inputs rounded to f16 (11 bits), and in attention's gradients the weights between: as backend.test.ts has it. */
const productTolerance = 2e-3;
const attentionTolerance = 4e-3;

/** One case for every way that operands can lie, of sizes that reach subgroup matrices and go beyond a tile. */
const patterns = [
  /^attention and backward \[\[(70|150|40),.* width (16|64|128) window \d+( sinks)?$/,
  /^attention over a cache, window 6/,
  /, then (products|gradients)|before a product reads the rows/,
  /^linear frozen (f32|bf16) \[65,516\]/,
  /^linear trained \[130,200\]/,
  /^linear with adapters of rank (8|19), dropout 0, two parts \[130,200\]/,
  /^linear with adapters of rank 8, dropout 0.25, two parts \[130,200\]/,
  /^linear quantised \[70,320\].* blocks of (32, nested|64|256, nested)$/,
];
const cases = kernelCases.filter(({ name }) => patterns.some((pattern) => pattern.test(name)));

/** Largest difference over the largest magnitude; NaN where there is one. */
function worst(actual: Float32Array, expected: Float32Array): number {
  const scale = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-6);
  return expected.reduce((most, x, i) => Math.max(most, Math.abs(actual[i]! - x)), 0) / scale;
}

const large: MatrixShape = { m: 16, n: 16, k: 16, subgroupSize: 32 };
const wide: MatrixShape = { m: 16, n: 8, k: 16, subgroupSize: 32 };

describe("kernels of the matrix tier, emulated", () => {
  it.each(cases)("$name", async (kernelCase) => {
    const opened = openEmulated("matrix", large);
    const stage = new Stage(backendOf(opened, partsOn(opened)));
    const expected = await kernelCase.run(new Stage(openReference("f64")));
    const actual = await kernelCase.run(stage);
    await stage.checkGuards();
    const tolerance = kernelCase.attention ? attentionTolerance : productTolerance;
    for (const [key, values] of Object.entries(expected))
      expect(worst(actual[key]!, values), key).toBeLessThan(tolerance);
  });

  it.each([
    ["matrices of other sides", wide, 49152],
    ["narrow tiles, where workgroup memory is short", large, 32768],
  ] as const)("attention with %s", async (_, matrix, maxComputeWorkgroupStorageSize) => {
    const labels: string[] = [];
    for (const kernelCase of cases.filter(({ name }) =>
      /^attention and backward .* width (64|128)/.test(name),
    )) {
      const opened = openEmulated("matrix", matrix, { maxComputeWorkgroupStorageSize });
      const gpu = partsOn(opened);
      gpu.commands.onLaunch = ({ label }) => labels.push(label);
      const expected = await kernelCase.run(new Stage(openReference("f64")));
      const actual = await kernelCase.run(new Stage(backendOf(opened, gpu)));
      for (const [key, values] of Object.entries(expected))
        expect(worst(actual[key]!, values), `${kernelCase.name}: ${key}`).toBeLessThan(attentionTolerance);
    }
    expect(labels).toContain("attention-matrix-backward 128");
  });

  // Adapters of a model at its start and in training: B of 1e-7 beside weights of 1, x of 1e4 and of 1e-6.
  it.each([
    ["another matrix shape and one tile in memory", wide, 32768, 1, 1],
    ["small factors", large, 49152, 1e-7, 1],
    ["large inputs and large factors", large, 49152, 30, 1e4],
    ["tiny inputs", large, 49152, 1, 1e-6],
  ] as const)(
    "adapters beside f16 weights: %s",
    async (_, matrix, maxComputeWorkgroupStorageSize, b, bound) => {
      const opened = openEmulated("matrix", matrix, { maxComputeWorkgroupStorageSize });
      const gpu = partsOn(opened);
      const run = async (s: Stage) => {
        const [tokens, inputs, outputs, rank] = [70, 136, 152, 8];
        const x = s.random([tokens, inputs], 1, bound);
        const [y, u, dx] = [s.zeros([tokens, outputs]), s.zeros([tokens, rank]), s.zeros([tokens, inputs])];
        const dy = s.random([tokens, outputs], 2);
        const weight = s.zeros([outputs, inputs], "f16");
        const adapter = { a: s.random([rank, inputs], 3), b: s.random([outputs, rank], 4, b), scale: 2, u };
        const [dA, dB] = [s.zeros([rank, inputs]), s.zeros([outputs, rank])];
        s.backend.linear(x, [{ weight, adapter, y }]);
        s.backend.linearBackward(x, [{ weight, dy, adapter: { ...adapter, dA, dB } }], dx, false);
        return Promise.all([y, dx, dA, dB].map((tensor) => s.read(tensor)));
      };
      const expected = await run(new Stage(openReference("f64")));
      const actual = await run(new Stage(backendOf(opened, gpu)));
      // Weights of zero: what is compared is the adapter's own share.
      for (const [i, values] of expected.entries()) {
        const scale = values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
        const difference = values.reduce((most, x, at) => Math.max(most, Math.abs(actual[i]![at]! - x)), 0);
        expect(difference / scale, ["y", "dx", "dA", "dB"][i]).toBeLessThan(productTolerance);
      }
    },
  );
});
