// Every kernel of every backend against the reference in double precision; nothing written behind a tensor, inputs left as
// they were, device memory restored after each case.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";
import { conformanceBackends } from "./backends.ts";
import type { KernelCase } from "./cases/case.ts";
import { kernelCases } from "./cases/index.ts";
import { Stage } from "./stage.ts";

// Relative to the largest magnitude of each output. f32 sums of a few thousand terms stay within 2e-5; products of
// inputs rounded to bf16 (8 bits of mantissa, each within 2^-9) within 1.5e-2; f16 (11 bits) within 2e-3.
const floatTolerance = 2e-5;
const productTolerance = { fp32: 2e-5, bf16: 1.5e-2, fp16: 2e-3 };
// Inputs are rounded, and P and dS too. The CPU does so only in sets with bf16 instructions (test/native/attention.test.ts).
const attentionTolerance = { fp32: 2e-5, bf16: 1.5e-2, fp16: 4e-3 };

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

for (const { name, open, skip } of conformanceBackends) {
  describe.skipIf(skip)(`kernels of ${name}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await open();
    });
    afterAll(() => backend?.close());

    it.for(kernelCases)("$name", async (kernelCase, { skip: skipCase }) => {
      const before = backend.liveBytes;
      const actual = await outputsOf(backend, kernelCase).catch((error: Error) => {
        // A kernel that the CUDA backend refuses by name is not there yet.
        if (backend.name === "cuda" && /has no kernel "/.test(error.message)) skipCase(error.message);
        throw error;
      });
      expect(backend.liveBytes).toBe(before);
      const wanted = await expectedOf(kernelCase);
      const tolerance = toleranceOf(kernelCase, backend);
      for (const [key, values] of Object.entries(wanted)) {
        expect(worstDifference(actual[key]!, values), key).toBeLessThanOrEqual(tolerance);
      }
    });
  });
}

function toleranceOf({ exact, product, attention }: KernelCase, backend: Backend): number {
  if (exact) return 0;
  if (attention) return attentionTolerance[backend.precision];
  return product ? productTolerance[backend.precision] : floatTolerance;
}

/** Largest difference over the largest magnitude; infinite where one side is not finite and the other is. */
function worstDifference(actual: Float32Array, expected: Float32Array): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  let scale = 1e-6;
  for (let i = 0; i < expected.length; i++) {
    if (Object.is(actual[i], expected[i]) || actual[i] === expected[i]) continue;
    const difference = Math.abs(actual[i]! - expected[i]!);
    if (!(difference < Number.POSITIVE_INFINITY)) return Number.POSITIVE_INFINITY;
    worst = Math.max(worst, difference);
  }
  for (const value of expected) if (Number.isFinite(value)) scale = Math.max(scale, Math.abs(value));
  return worst / scale;
}
