// The same rows in other portions are the same training: gradient accumulation, packing and gradient checkpointing
// change memory and time, not the result. Whole runs of train/run.ts in this process, in fp32.

import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { readAdapter } from "../../src/formats/peft.ts";
import type { StepEvent } from "../../src/train/events.ts";
import { runTraining } from "../../src/train/run.ts";
import { relativeDifference } from "../conformance/model-case.ts";
import { backendName, makeRows, scratchFolder, writeRows, writeTinyModel } from "./lowrank.ts";

// AdamW divides by the root of the second moment, which blows rounding up where a gradient is nearly zero; an epsilon
// of the gradients' own size keeps the comparison about gradients.
const epsilon = 1e-3;
const lossTolerance = 1e-5;
const adapterTolerance = 1e-6;

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(24));
let runs = 0;

async function train(flags: Readonly<Record<string, unknown>>) {
  const out = join(folder, `run-${++runs}`);
  const options = resolveOptions(trainDefinition, {
    ...{ model, data, out, backend: backendName, precision: "fp32", shuffle: false, rank: 4, epsilon },
    ...{ maxSteps: 8, learningRate: 1e-3, maxGradNorm: 1, ...flags },
  });
  const steps: StepEvent[] = [];
  await runTraining(
    options,
    (event) => {
      if (event.type === "train") steps.push(event);
    },
    { interrupted: false },
  );
  const { modules } = await readAdapter(out);
  return { steps, weights: [...modules.values()].flatMap(({ a, b }) => [...a.values, ...b.values]) };
}

type Run = Awaited<ReturnType<typeof train>>;

function expectSame(run: Run, expected: Run): void {
  const losses = (steps: readonly StepEvent[]) => steps.map(({ loss }) => loss);
  expect(run.steps.map((step) => step.targetTokens)).toEqual(expected.steps.map((step) => step.targetTokens));
  expect(relativeDifference(losses(run.steps), losses(expected.steps))).toBeLessThan(lossTolerance);
  expect(relativeDifference(run.weights, expected.weights)).toBeLessThan(adapterTolerance);
}

describe(`on ${backendName}`, () => {
  it("four micro-batches of one row are one batch of four", async () => {
    const one = await train({ batchSize: 4 });
    const lengths = new Set(makeRows(4).map(({ completion }) => completion.length));
    expect(lengths.size).toBeGreaterThan(1);
    expectSame(await train({ batchSize: 1, gradientAccumulation: 4 }), one);
    expectSame(await train({ batchSize: 2, gradientAccumulation: 2 }), one);
    expect(one.steps.at(-1)!.loss).toBeLessThan(one.steps[0]!.loss);
  });

  it("steps by target tokens are the same steps as by micro-batches", async () => {
    const whole = { batchSize: 1, maxSteps: 3 };
    expectSame(await train({ ...whole, batchTokens: 1e6 }), await train({ ...whole, batchSize: 24 }));
    const one = await train(whole);
    expectSame(await train({ ...whole, batchTokens: 1 }), one);
    const reached = (await train({ ...whole, batchTokens: 30 })).steps.map((step) => step.targetTokens);
    expect(Math.min(...reached)).toBeGreaterThanOrEqual(30);
    expect(Math.max(...reached)).toBeLessThan(
      30 + Math.max(...one.steps.map((step) => step.targetTokens)) * 4,
    );
  });

  it("a pack of rows is the same rows apart", async () => {
    const apart = await train({ batchSize: 24 });
    expectSame(await train({ batchSize: 1, packing: true, sequenceLength: 2048 }), apart);
    // Packs of at most 100 tokens, all of them in one step.
    expectSame(await train({ batchSize: 64, packing: true, sequenceLength: 100 }), apart);
  });

  it("recomputed activations are the same activations", async () => {
    const kept = await train({ batchSize: 4, dropout: 0.1, gradientCheckpointing: "off" });
    expectSame(await train({ batchSize: 4, dropout: 0.1, gradientCheckpointing: "on" }), kept);
  });

  it("equal seeds are equal runs, other seeds are others", async () => {
    const flags = { batchSize: 4, dropout: 0.1, shuffle: true };
    const first = await train(flags);
    const again = await train(flags);
    expect(again.weights).toEqual(first.weights);
    expect(again.steps.map(({ loss }) => loss)).toEqual(first.steps.map(({ loss }) => loss));
    expect((await train({ ...flags, seed: 1 })).weights).not.toEqual(first.weights);
  });
});
