// Holds the optimizer goldens to plain loops of the published formulas, so that a wrong stream or convention
// in a golden or its loader shows here and not in an engine's test.

import { expect, it } from "vitest";
import { floatsOf } from "./load-golden.ts";
import {
  loadAdamwGolden,
  loadAdaptersGolden,
  loadQloraGolden,
  loadTextGolden,
  optimizerGradients,
  optimizerParams,
} from "./typed-goldens.ts";

it("recomputes every AdamW trajectory", () => {
  const golden = loadAdamwGolden();
  for (const settings of Object.values(golden.cases)) {
    const params = Float64Array.from(optimizerParams(settings));
    const m = new Float64Array(settings.count);
    const v = new Float64Array(settings.count);
    const expected = floatsOf(settings.params);
    const { beta1, beta2, learningRate, epsilon, weightDecay, maxGradNorm } = settings;
    for (let step = 1; step <= golden.steps; step++) {
      const gradients = optimizerGradients(settings, step);
      const norm = Math.hypot(...gradients);
      const clip = maxGradNorm === null ? 1 : Math.min(1, maxGradNorm / (norm + 1e-6));
      for (let i = 0; i < settings.count; i++) {
        const g = gradients[i]! * clip;
        m[i] = beta1 * m[i]! + (1 - beta1) * g;
        v[i] = beta2 * v[i]! + (1 - beta2) * g * g;
        const root = Math.sqrt(v[i]! / (1 - beta2 ** step)) + epsilon;
        params[i] =
          params[i]! * (1 - learningRate * weightDecay) - (learningRate * m[i]!) / (1 - beta1 ** step) / root;
        // Stored as float32: half a unit in the last place of values near 1.
        expect(Math.abs(params[i]! - expected[(step - 1) * settings.count + i]!)).toBeLessThan(1.2e-7);
      }
    }
  }
});

it("holds the cases that other tests count on", () => {
  expect(Object.keys(loadAdaptersGolden().cases)).toEqual(
    expect.arrayContaining(["regex", "patterns", "rslora", "modules-to-save"]),
  );
  expect(Object.keys(loadQloraGolden().cases)).toEqual(["llama-rows-64", "llama-mha"]);
  const text = loadTextGolden();
  for (const { ids } of Object.values(text.tokenizers)) expect(ids.length).toBe(text.texts.length);
});
