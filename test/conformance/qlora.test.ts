// QLoRA against torch models whose block linears hold bitsandbytes' dequantised NF4 weights, LoRA on all of them, and
// where rows are whole blocks against PEFT over bitsandbytes itself. Goldens: tools/golden/qlora.py.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { loadDecoder } from "../../src/models/load-model.ts";
import { quantizeOnArrival } from "../../src/models/quantized-weights.ts";
import { floatsOf } from "../golden/load-golden.ts";
import { loadQloraGolden } from "../golden/typed-goldens.ts";
import { conformanceBackends, exactBackends } from "./backends.ts";
import {
  attachGoldenAdapter,
  goldenSource,
  logitsOf,
  lossAndGradients,
  parameterFor,
  relativeDifference,
  trainGolden,
} from "./model-case.ts";

const golden = loadQloraGolden();

// The project's bounds for fp32 arithmetic; torch in float32 itself deviates by up to 1e-5 from float64.
const logitsTolerance = 1e-4;
const lossTolerance = 1e-4;
const gradientTolerance = 1e-3;
/** bitsandbytes computes in float32 with its own rounding order. */
const peftTolerance = 1e-3;
/** Products of numbers rounded to 8 bits of mantissa, over ten steps. */
const bf16LossTolerance = 3e-2;

for (const { name: backendName, open, skip } of conformanceBackends) {
  const exact = exactBackends.some((backend) => backend.name === backendName);
  describe.skipIf(skip)(`QLoRA on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await open();
    });
    afterAll(() => backend?.close());

    it.each(Object.entries(golden.cases))("%s", async (name, row) => {
      const before = backend.liveBytes;
      const loaded = await loadDecoder(backend, readModelConfig(row.config), goldenSource({ name, ...row }), {
        quantize: quantizeOnArrival(backend),
      });
      expect(backend.ledger().live.scales).toBeGreaterThan(0);
      if (exact) {
        const logits = await logitsOf(backend, loaded, row.sequence.ids);
        expect(relativeDifference(logits, floatsOf(row.sequence.logits))).toBeLessThan(logitsTolerance);
      }
      const flat = attachGoldenAdapter(backend, loaded, {
        ...row,
        lora: { ...golden, adapter: row.adapter },
      });
      if (exact) {
        const loss = await lossAndGradients(backend, loaded, row.packed.sequences, true);
        expect(Math.abs(loss - row.packed.loss)).toBeLessThan(lossTolerance);
        for (const [parameterName, expected] of Object.entries(row.packed.gradients)) {
          const grad = await flat.read(parameterFor(flat, parameterName), "grad");
          const norm = Math.sqrt(grad.reduce((sum, value) => sum + value * value, 0));
          expect(Math.abs(norm / expected.norm - 1), parameterName).toBeLessThan(gradientTolerance);
        }
      }
      const { losses } = await trainGolden(loaded, flat, row);
      expect(relativeDifference(losses, row.training.losses)).toBeLessThan(
        exact ? lossTolerance : bf16LossTolerance,
      );
      const theirs = row.training.lossesBitsandbytes;
      if (exact && theirs) {
        for (const [i, loss] of theirs.entries())
          expect(Math.abs(losses[i]! - loss)).toBeLessThan(peftTolerance);
      }
      flat.free();
      loaded.free();
      expect(backend.liveBytes).toBe(before);
    });
  });
}
