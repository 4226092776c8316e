// Every kernel of every backend against the reference in double precision; nothing written behind a tensor, inputs left as
// they were, device memory restored after each case.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";
import { cardProducts, conformanceBackends } from "./backends.ts";
import type { KernelCase } from "./cases/case.ts";
import { kernelCases } from "./cases/index.ts";
import { Stage } from "./stage.ts";
import { toleranceOf, worstDifference } from "./tolerance.ts";

async function outputsOf(backend: Backend, kernelCase: KernelCase): Promise<Record<string, Float32Array>> {
  const stage = new Stage(backend);
  const outputs = await kernelCase.run(stage);
  await stage.checkGuards();
  stage.free();
  return outputs;
}

const reference = openReference("f64");
const expected = new Map<KernelCase, Promise<Record<string, Float32Array>>>();

/** What the reference computes for a case, once for all backends. */
function expectedOf(kernelCase: KernelCase): Promise<Record<string, Float32Array>> {
  const known = expected.get(kernelCase) ?? outputsOf(reference, kernelCase);
  expected.set(kernelCase, known);
  return known;
}

/** A card's kernel in f16 takes a program on the CPU up to ten seconds to compile, and lengths of blocks differ in a number. */
const ofOtherBlocks = /quantised .* blocks of (32|256)/;

const suites = [
  ...conformanceBackends.map((backend) => ({ ...backend, cases: kernelCases })),
  ...cardProducts.map((backend) => ({
    ...backend,
    cases: kernelCases.filter(({ product, name }) => product && (backend.exact || !ofOtherBlocks.test(name))),
  })),
];

for (const { name, open, skip, cases } of suites) {
  describe.skipIf(skip)(`kernels of ${name}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await open();
    });
    afterAll(() => backend?.close());

    it.each(cases)("$name", async (kernelCase) => {
      const before = backend.liveBytes;
      const actual = await outputsOf(backend, kernelCase);
      expect(backend.liveBytes).toBe(before);
      const wanted = await expectedOf(kernelCase);
      const tolerance = toleranceOf(kernelCase, backend);
      for (const [key, values] of Object.entries(wanted)) {
        expect(worstDifference(actual[key]!, values), key).toBeLessThanOrEqual(tolerance);
      }
    });
  });
}
