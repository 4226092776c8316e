// Noise on the embeddings (NEFTune) is the same on every backend: losses and gradients of whole models with it.

import { describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";
import { assemble } from "../../src/data/assemble.ts";
import type { Sample } from "../../src/data/render.ts";
import { Session } from "../../src/session/session.ts";
import { loadModelGolden } from "../golden/load-golden.ts";
import { exactBackends } from "./backends.ts";
import { openGolden } from "./model-case.ts";

const sampleOf = (length: number, start: number): Sample => ({
  ids: Int32Array.from({ length }, (_, t) => (start + 3 * t) % 96),
  targetMask: new Uint8Array(length).fill(1, 1),
  rowId: { file: "rows", line: 1, unit: "line" },
});
const samples = [sampleOf(9, 5), sampleOf(14, 2)];

/** Losses and gradients of two micro-batches. */
async function resultOn(backend: Backend, name: string) {
  const loaded = await openGolden(backend, loadModelGolden(name));
  const recipe = { method: "lora", rank: 4, alpha: 8, targets: "all-linear", optimizer: "adamw" } as const;
  using session = new Session(loaded, { ...recipe, seed: 3, neftuneAlpha: 5 });
  const { losses } = await session.forwardBackward([assemble(samples), assemble(samples.slice(1))]);
  const { parameters } = session;
  const gradients = await Promise.all(parameters.entries.map((entry) => parameters.read(entry, "grad")));
  return { losses, gradient: gradients.flatMap((values) => [...values]) };
}

for (const { name: backendName, open, skip } of exactBackends) {
  // Gemma scales within its table, Granite behind it.
  describe.skipIf(skip)(`noise on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    it.each(["llama-mha", "gemma3-text", "granite"])(
      "%s",
      async (name) => {
        const wanted = await resultOn(openReference("f64"), name);
        const backend = await open();
        const found = await resultOn(backend, name);
        for (const [i, loss] of found.losses.entries()) expect(loss).toBeCloseTo(wanted.losses[i]!, 4);
        const largest = Math.max(...wanted.gradient.map(Math.abs));
        const apart = Math.max(...found.gradient.map((value, i) => Math.abs(value - wanted.gradient[i]!)));
        expect(apart / largest).toBeLessThan(1e-3);
      },
      30_000,
    );
  });
}
