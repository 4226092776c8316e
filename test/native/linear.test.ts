// The native engine's linear layers against the reference backend's plain loops, for every instruction set of this
// machine and both precisions; results must not depend on the number of threads.

import { describe, expect, it } from "vitest";
import { loadNativeAddon } from "../../src/backend/cpu/addon.node.ts";
import { openReference } from "../../src/backend/reference.ts";
import { openCpu } from "../conformance/backends.ts";
import { type BackwardOptions, linearSpecs, runBackward, runForward } from "./linear-cases.ts";

/** Largest error relative to the largest value: rounding of sums of about a thousand products in f32, ... */
const F32_TOLERANCE = 2e-6;
/** ... and of both factors to 8 bits of mantissa, u and du being rounded once more. */
const BF16_TOLERANCE = 1.2e-2;

function expectClose(
  found: Record<string, Float32Array>,
  wanted: Record<string, Float32Array>,
  tolerance: number,
) {
  expect(Object.keys(found)).toEqual(Object.keys(wanted));
  for (const [name, values] of Object.entries(wanted)) {
    let largest = 0;
    let worst = 0;
    for (const [i, value] of values.entries()) {
      largest = Math.max(largest, Math.abs(value));
      const error = Math.abs(value - found[name]![i]!);
      worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : Math.max(worst, error);
    }
    expect(worst, `${name}: error against a largest value of ${largest}`).toBeLessThanOrEqual(
      tolerance * largest,
    );
  }
}

const backwardOptions: readonly BackwardOptions[] = [
  { dx: "=", adapters: true, weights: false },
  { dx: "+=", adapters: false, weights: false },
  { dx: "none", adapters: true, weights: true },
];

/** What the reference computes for a case, once for all instruction sets. */
const expected = new Map<string, Promise<Record<string, Float32Array>[]>>();
async function referenceResults(name: string): Promise<Record<string, Float32Array>[]> {
  const spec = linearSpecs[name]!;
  const reference = openReference();
  const results = [await runForward(reference, spec)];
  for (const options of backwardOptions) results.push(await runBackward(reference, spec, options));
  return results;
}

for (const isa of loadNativeAddon().isas) {
  for (const precision of ["fp32", "bf16"] as const) {
    describe(`${isa} ${precision}`, () => {
      const tolerance = precision === "fp32" ? F32_TOLERANCE : BF16_TOLERANCE;
      it.each(Object.keys(linearSpecs))("%s", async (name) => {
        if (!expected.has(name)) expected.set(name, referenceResults(name));
        const wanted = await expected.get(name)!;
        const backend = await openCpu(isa, precision);
        const spec = linearSpecs[name]!;
        expectClose(await runForward(backend, spec), wanted[0]!, tolerance);
        for (const [i, options] of backwardOptions.entries()) {
          expectClose(await runBackward(backend, spec, options), wanted[i + 1]!, tolerance);
        }
        expect(backend.liveBytes).toBe(0);
      });

      it("gives the same bits for any number of threads", async () => {
        const spec = linearSpecs["four parts, dropout differs"]!;
        const wide = { t: 70, in: 640, parts: [{ out: 1000, weight: "bf16" as const, rank: 8 }] };
        for (const s of [spec, wide]) {
          const one = await openCpu(isa, precision, 1);
          const forward = await runForward(one, s);
          const backward = await runBackward(one, s, backwardOptions[0]!);
          for (const threads of [2, 3]) {
            const many = await openCpu(isa, precision, threads);
            expect(await runForward(many, s)).toEqual(forward);
            expect(await runBackward(many, s, backwardOptions[0]!)).toEqual(backward);
          }
        }
      });
    });
  }
}

describe("empty batches", () => {
  it("leaves gradients alone when there are no tokens", async () => {
    const backend = await openCpu(loadNativeAddon().isas[0]!, "fp32");
    const spec = { t: 0, in: 16, parts: [{ out: 8, weight: "f32" as const, rank: 2 }] };
    expect((await runForward(backend, spec)).y0).toHaveLength(0);
    const reference = openReference();
    const wanted = await runBackward(reference, spec, backwardOptions[2]!);
    expect(await runBackward(backend, spec, backwardOptions[2]!)).toEqual(wanted);
  });
});
