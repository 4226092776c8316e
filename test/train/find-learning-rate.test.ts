// The sweep for a learning rate: on a parabola, whose best rate is known, and on a tiny model through `check`.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { ratePlot } from "../../src/cli/plot.ts";
import { checkDefinition } from "../../src/config/check-options.ts";
import { resolveOptions } from "../../src/config/resolve.ts";
import { checkRun } from "../../src/train/check.ts";
import { sweep } from "../../src/train/find-learning-rate.ts";
import { backendName, makeRows, scratchFolder, writeRows, writeTinyModel } from "../e2e/lowrank.ts";

/** Gradient descent on x^2 / 2 + 1: steps of rate above 2 go away from its middle. */
function parabola() {
  let x = 3;
  return async (rate: number) => {
    const loss = (x * x) / 2 + 1;
    x -= rate * x;
    return loss;
  };
}

it("stops when the loss goes up for good, and suggests what is stable", async () => {
  const found = await sweep(100, [1e-4, 100], parabola());
  expect(found.stopped).toBe(true);
  expect(found.curve.at(-1)!.learningRate).toBeLessThan(100);
  expect(found.suggestion).toBeGreaterThan(1e-3);
  expect(found.suggestion).toBeLessThan(2);
  expect(found.suggestion).toBeLessThanOrEqual(found.lowest);
  const factors = found.curve
    .slice(1)
    .map(({ learningRate }, i) => learningRate / found.curve[i]!.learningRate);
  for (const factor of factors) expect(factor).toBeCloseTo(1e6 ** (1 / 99), 10);
});

it("finds the same place whatever the number of steps, about", async () => {
  const [few, many] = [await sweep(50, [1e-4, 10], parabola()), await sweep(400, [1e-4, 10], parabola())];
  // More steps do more at each rate, so the fall comes earlier, by the number of steps and no more.
  expect(few.suggestion / many.suggestion).toBeGreaterThan(1 / 3);
  expect(few.suggestion / many.suggestion).toBeLessThan(30);
});

it("refuses a loss that never falls, and ends at one that is no number", async () => {
  await expect(sweep(40, [1e-4, 1], async () => 2)).rejects.toThrow(/did not fall at any rate/);
  let step = 0;
  const found = await sweep(40, [1e-4, 1], async () => (++step > 20 ? Number.NaN : 5 - step / 10));
  expect(found).toMatchObject({ stopped: true });
  expect(found.curve).toHaveLength(20);
});

it("sweeps a run's own model and rows through check, and writes nothing", async () => {
  const folder = scratchFolder();
  const model = writeTinyModel(join(folder, "model"));
  const data = writeRows(join(folder, "rows.jsonl"), makeRows(24));
  const before = readdirSync(folder).sort();
  const bytes = readFileSync(join(model, "model.safetensors"));
  const given = {
    model,
    data,
    backend: backendName,
    precision: "fp32",
    findLearningRate: true,
    findSteps: 40,
  };
  const options = resolveOptions(checkDefinition, given);
  const { learningRate: found } = await checkRun(options, () => {}, options.findSteps);
  expect(found!.curve.length).toBeGreaterThan(20);
  expect(found!.suggestion).toBeGreaterThan(1e-5);
  expect(found!.suggestion).toBeLessThan(1);
  const nearest = found!.curve.find(({ learningRate }) => learningRate >= found!.suggestion)!;
  expect(nearest.smoothed).toBeLessThan(found!.curve[0]!.smoothed);
  // The cache of tokenised rows is the machine's, not the run's.
  expect(
    readdirSync(folder)
      .filter((name) => name !== "cache")
      .sort(),
  ).toEqual(before);
  expect(readFileSync(join(model, "model.safetensors"))).toEqual(bytes);
  const plot = ratePlot(found!.curve, 80)!;
  expect(plot).toContain("loss by learning rate");
  expect(plot).toMatch(/1e-[1-6]/);
  const again = await checkRun(options, () => {}, options.findSteps);
  expect(again.learningRate).toEqual(found);
});
