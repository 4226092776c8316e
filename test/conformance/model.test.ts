// Every architecture on every backend against transformers + PEFT: logits, losses, gradients, ten AdamW steps of
// LoRA and of full fine-tuning, checkpointed and not. Goldens: tools/golden/tiny_models.py.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { floatsOf, goldenModelNames, loadModelGolden } from "../golden/load-golden.ts";
import { exactBackends } from "./backends.ts";
import {
  attachGoldenAdapter,
  logitsOf,
  lossAndGradients,
  openGolden,
  parameterFor,
  relativeDifference,
  trainGolden,
} from "./model-case.ts";

// torch in float32 itself deviates by up to 1e-5 from these float64 goldens; the project's bounds are 1e-4 (logits,
// losses) and 1e-3 (gradients).
const logitsTolerance = 1e-4;
const lossTolerance = 1e-4;
const gradientTolerance = 1e-3;

/** On the CUDA backend's emulator two architectures stand for all: one with a tied head and scaled RoPE, one with norms of q and k. */
const modelNames =
  process.env.LOWRANK_TEST_CUDA === "1" ? ["llama-gqa-tied-llama3", "qwen3"] : goldenModelNames;

for (const { name: backendName, open, skip } of exactBackends) {
  describe.skipIf(skip)(`models on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await open();
    });
    afterAll(() => backend?.close());

    for (const name of modelNames) {
      const golden = loadModelGolden(name);

      it(`${name}: logits`, async () => {
        const before = backend.liveBytes;
        const loaded = await openGolden(backend, golden);
        const logits = await logitsOf(backend, loaded, golden.sequence.ids);
        expect(relativeDifference(logits, floatsOf(golden.sequence.logits))).toBeLessThan(logitsTolerance);
        if (golden.long) {
          const long = await logitsOf(backend, loaded, golden.long.ids);
          expect(relativeDifference(long, floatsOf(golden.long.logits))).toBeLessThan(logitsTolerance);
        }
        loaded.free();
        expect(backend.liveBytes).toBe(before);
      });

      it(`${name}: packed loss, adapter gradients and ten LoRA steps`, async () => {
        const before = backend.liveBytes;
        for (const checkpointing of [false, true]) {
          const loaded = await openGolden(backend, golden);
          const bare = await lossAndGradients(backend, loaded, golden.packed.sequences);
          expect(Math.abs(bare - golden.packed.loss)).toBeLessThan(lossTolerance);
          const flat = attachGoldenAdapter(backend, loaded, golden);
          const loss = await lossAndGradients(backend, loaded, golden.packed.sequences, checkpointing);
          expect(Math.abs(loss - golden.lora.loss)).toBeLessThan(lossTolerance);
          for (const [parameterName, expected] of Object.entries(golden.lora.gradients)) {
            const grad = await flat.read(parameterFor(flat, parameterName), "grad");
            expect(relativeDifference(grad, floatsOf(expected)), parameterName).toBeLessThan(
              gradientTolerance,
            );
          }
          if (!checkpointing) {
            const { losses, gradNorms } = await trainGolden(loaded, flat, golden);
            expect(relativeDifference(losses, golden.lora.training.losses)).toBeLessThan(lossTolerance);
            expect(relativeDifference(gradNorms, golden.lora.training.gradNorms)).toBeLessThan(
              gradientTolerance,
            );
          }
          flat.free();
          loaded.free();
        }
        expect(backend.liveBytes).toBe(before);
      });

      it(`${name}: full fine-tuning gradients and ten steps`, async () => {
        const before = backend.liveBytes;
        const loaded = await openGolden(backend, golden, true);
        const flat = loaded.trained!;
        const loss = await lossAndGradients(backend, loaded, golden.packed.sequences, true);
        expect(Math.abs(loss - golden.full.loss)).toBeLessThan(lossTolerance);
        for (const [parameterName, expected] of Object.entries(golden.full.gradients)) {
          const grad = await flat.read(flat.get(parameterName)!, "grad");
          const sampled = expected.entries.map((_, i) => grad[i * expected.stride]!);
          const worst = Math.max(...sampled.map((value, i) => Math.abs(value - expected.entries[i]!)));
          expect(worst / expected.max, parameterName).toBeLessThan(gradientTolerance);
          const norm = Math.sqrt(grad.reduce((sum, value) => sum + value * value, 0));
          expect(Math.abs(norm / expected.norm - 1), parameterName).toBeLessThan(gradientTolerance);
        }
        const { losses, gradNorms } = await trainGolden(loaded, flat, golden);
        expect(relativeDifference(losses, golden.full.training.losses)).toBeLessThan(lossTolerance);
        expect(relativeDifference(gradNorms, golden.full.training.gradNorms)).toBeLessThan(gradientTolerance);
        loaded.free();
        expect(backend.liveBytes).toBe(before);
      });
    }
  });
}
