// Parameter groups: each is updated with its own rate and decay as if it were alone, by every optimizer, in memory or paged.

import { afterAll, beforeAll, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { loraPlusGroups } from "../../src/nn/lora-plus.ts";
import { FlatParameters, type ParameterSpec } from "../../src/nn/parameters.ts";
import { optimizerNames, optimizers } from "../../src/optim/index.ts";
import { defaultOptimizerOptions } from "../../src/optim/optimizer.ts";
import { pagedState, residentState } from "../../src/optim/paging.ts";
import { Random } from "../../src/util/rng.ts";
import { scratchFolder } from "../publish/tiny-model.ts";

const folder = scratchFolder();
let backend: Backend;
beforeAll(async () => {
  backend = await openBackend("cpu", { precision: "fp32" });
});
afterAll(() => backend.close());

const specs: ParameterSpec[] = [
  { name: "x.lora_a", shape: [8, 700] },
  { name: "x.lora_b", shape: [600, 8] },
  { name: "x.lora_magnitude", shape: [600] },
  { name: "y.lora_a", shape: [3, 70] },
  { name: "y.lora_b", shape: [50, 3] },
  { name: "y.bias", shape: [50] },
];
const groupOf = loraPlusGroups(16);

it("are LoRA+'s", () => {
  const flat = new FlatParameters(backend, specs, "adapters", true, groupOf);
  expect(flat.ranges.map(({ rate, decays }) => [rate, decays])).toEqual([
    [1, true],
    [16, true],
    [16, false],
  ]);
  expect(flat.entries.map(({ name }) => name)).toEqual(specs.map(({ name }) => name));
  for (const { tensor, name } of flat.entries) {
    const at = tensor.byteOffset / 4;
    const range = flat.ranges.find(({ begin, end }) => begin <= at && at < end)!;
    expect(range.rate, name).toBe(name.endsWith("lora_a") ? 1 : 16);
  }
  flat.free();
});

async function trained(
  flat: FlatParameters,
  name: (typeof optimizerNames)[number],
  rate: number,
  options: { decay: number; paged?: boolean },
): Promise<Map<string, Float32Array>> {
  for (const [i, spec] of specs.entries()) {
    const parameter = flat.get(spec.name);
    const random = new Random(i + 1);
    const count = spec.shape.reduce((a, b) => a * b, 1);
    if (parameter)
      flat.set(
        parameter,
        Float32Array.from({ length: count }, () => random.nextNormal()),
      );
  }
  const memory = options.paged
    ? pagedState(backend, backend.paging!, { folder, budgetBytes: 0 })
    : residentState(backend);
  const constants = { ...defaultOptimizerOptions, weightDecay: options.decay };
  const optimizer = optimizers[name](backend, flat, constants, memory);
  for (let step = 1; step <= 3; step++) {
    for (const { name: key, grad } of flat.entries) {
      const random = new Random(step * 100 + specs.findIndex((spec) => spec.name === key));
      const count = grad!.shape.reduce((a, b) => a * b, 1);
      const values = Float32Array.from({ length: count }, () => random.nextNormal());
      backend.write(grad!.buffer, new Uint8Array(values.buffer), grad!.byteOffset);
    }
    await optimizer.update(step, rate, undefined);
  }
  const values = new Map<string, Float32Array>();
  for (const entry of flat.entries) values.set(entry.name, await flat.read(entry));
  optimizer.free();
  flat.free();
  return values;
}

it.each(optimizerNames)("%s updates each group as if it were alone", async (name) => {
  const together = await trained(new FlatParameters(backend, specs, "adapters", true, groupOf), name, 1e-2, {
    decay: 0.1,
  });
  const paged = await trained(new FlatParameters(backend, specs, "adapters", true, groupOf), name, 1e-2, {
    decay: 0.1,
    paged: true,
  });
  expect(paged).toEqual(together);
  for (const spec of specs) {
    const { rate, decays } = groupOf(spec);
    const alone = new FlatParameters(backend, [spec], "adapters");
    const values = await trained(alone, name, 1e-2 * rate, { decay: decays ? 0.1 : 0 });
    expect(values.get(spec.name), spec.name).toEqual(together.get(spec.name));
  }
});
