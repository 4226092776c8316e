// The native kernels give the same bits on any number of threads, under every instruction set and precision.

import { describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { cpuSets, openCpu } from "./backends.ts";
import type { KernelSpec, Outputs } from "./cases/case.ts";
import { kernelSpecs } from "./cases/index.ts";
import { Stage } from "./stage.ts";

async function outputsOf({ threads }: KernelSpec, backend: Backend): Promise<Outputs[]> {
  const results: Outputs[] = [];
  for (const { run } of threads) {
    const stage = new Stage(backend);
    results.push(await run(stage));
    stage.free();
  }
  return results;
}

describe.each(cpuSets)("bits on one, two and three threads, cpu $isa $precision", ({ isa, precision }) => {
  it.each(Object.values(kernelSpecs).filter(({ threads }) => threads.length > 0))("$name", async (spec) => {
    const results: Outputs[][] = [];
    for (const threads of [1, 2, 3]) {
      const backend = await openCpu(isa, precision, threads);
      results.push(await outputsOf(spec, backend));
      backend.close();
    }
    expect(firstDifference(results[1]!, results[0]!)).toBe("");
    expect(firstDifference(results[2]!, results[0]!)).toBe("");
  });
});

/** The output whose bits differ; empty when none does. */
function firstDifference(found: readonly Outputs[], wanted: readonly Outputs[]): string {
  for (const [i, outputs] of wanted.entries()) {
    for (const [name, values] of Object.entries(outputs)) {
      const [a, b] = [values, found[i]![name]!].map((v) => Buffer.from(v.buffer, v.byteOffset, v.byteLength));
      if (!a!.equals(b!)) return name;
    }
  }
  return "";
}
