// Completions that share their prompt's tokens in one pass against the same sequences each behind a prompt of its own, on
// every backend and for every kind of layer that mixes tokens: losses, metrics and every gradient. Heads that train and
// adapted ones take another way through autograd/ops/head-loss.ts, and are here too.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { assembleForks } from "../../src/data/assemble-forks.ts";
import type { Sample } from "../../src/data/render.ts";
import { Session } from "../../src/session/session.ts";
import type { SessionRecipe } from "../../src/session/trainable.ts";
import { goldenModelNames, loadModelGolden } from "../golden/load-golden.ts";
import { exactBackends } from "./backends.ts";
import { openGolden, readFloats, relativeDifference } from "./model-case.ts";

const onEmulator = process.env.LOWRANK_TEST_CUDA === "1";
const everywhere = ["llama-gqa-tied-llama3", "qwen2-window", "qwen3-5", "lfm2", "gemma4-per-layer"];
const recipe = {
  ...{ method: "lora", objective: "orpo", beta: 0.5, rank: 4, alpha: 8 },
  ...{ targets: "all-linear", optimizer: "adamw", seed: 3 },
} as const satisfies SessionRecipe;

/** A prompt with completions of these lengths; ids are below every golden model's vocabulary. */
function fork(line: number, prompt: number, completions: readonly number[]): Sample {
  const total = completions.reduce((a, b) => a + b, prompt);
  return {
    ids: Int32Array.from({ length: total }, (_, i) => (7 * line + 5 * i + i * i) % 90),
    targetMask: Uint8Array.from({ length: total }, (_, i) => (i < prompt || i % 5 === 4 ? 0 : 1)),
    rowId: { file: "rows", line, unit: "line" },
    fork: { prompt, completions },
  };
}
const samples = [fork(1, 9, [4, 7]), fork(2, 1, [6, 2]), fork(3, 14, [3, 3])];

async function gradientsOf(backend: Backend, name: string, more: Partial<SessionRecipe>, sharedUpTo: number) {
  const loaded = await openGolden(backend, loadModelGolden(name), more.method === "full");
  try {
    using session = new Session(loaded, { ...recipe, ...more }, { checkpointing: more.rank === 2 });
    const batch = assembleForks(samples, { sharedUpTo, scoresPrompts: true });
    expect(batch.sharing !== undefined).toBe(sharedUpTo > 0);
    // A second micro-batch, so that sums over a step divide.
    const { loss, metrics } = await session.forwardBackward([
      batch,
      assembleForks([fork(4, 5, [5, 6])], { sharedUpTo, scoresPrompts: true }),
    ]);
    return {
      loss,
      metrics: Object.values(metrics!),
      grad: await readFloats(backend, session.parameters.grad),
    };
  } finally {
    loaded.free();
  }
}

for (const { name: backendName, open, skip } of exactBackends) {
  describe.skipIf(skip)(`shared prompts on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await open();
    });
    afterAll(() => backend?.close());

    const alike = async (name: string, more: Partial<SessionRecipe> = {}) => {
      const before = backend.liveBytes;
      const shared = await gradientsOf(backend, name, more, Number.POSITIVE_INFINITY);
      const apart = await gradientsOf(backend, name, more, 0);
      expect(Math.abs(shared.loss - apart.loss)).toBeLessThan(1e-5 * Math.abs(apart.loss));
      expect(relativeDifference(shared.metrics, apart.metrics)).toBeLessThan(1e-5);
      expect(apart.grad.some((value) => value !== 0)).toBe(true);
      // Rows at hand decide whether products take them as few or as many, each in an order of sums of its own.
      expect(relativeDifference(shared.grad, apart.grad)).toBeLessThan(1e-4);
      expect(backend.liveBytes).toBe(before);
    };

    const names =
      backendName === "reference f64" ? goldenModelNames : onEmulator ? everywhere.slice(0, 2) : everywhere;
    for (const name of names) it(name, () => alike(name));
    it("a head that trains", () => alike("llama-mha", { method: "full" }));
    it("an adapted head, recomputed blocks", () =>
      alike("llama-mha", { targets: "q_proj,lm_head", rank: 2 }));
    it("a scaled head", () => alike("llama-mha", { targets: "v_proj,lm_head", adapter: "dora" }));
  });
}
