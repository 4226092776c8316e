// Steps of lowrank on pairs of random tokens, a step at a time: before each it prints "ready" and waits for a line on its
// input, so that run.mjs beside this file lets the sides take turns. Then prints the result as one line of JSON.
//
//   node lowrank-steps.mjs --config F --objective dpo|sft [--precision bf16] [--pairs 4] [--length 512] [--prompt 256] ...
//
// sft learns the chosen completions alone. Of dpo the reference's pass and the step are timed apart.

import { readFileSync, readSync, writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { openBackend } from "../../dist/backend/index.js";
import { readModelConfig } from "../../dist/models/index.js";
import { randomDecoder } from "../../dist/models/random-model.js";
import { Session } from "../../dist/session/session.js";
import { peakRssBytes } from "../../dist/train/run-record.js";
import { Random } from "../../dist/util/rng.js";

const { values } = parseArgs({
  options: {
    config: { type: "string" },
    objective: { type: "string", default: "dpo" },
    precision: { type: "string", default: "bf16" },
    pairs: { type: "string", default: "4" },
    length: { type: "string", default: "512" },
    prompt: { type: "string", default: "256" },
    steps: { type: "string", default: "6" },
    warmup: { type: "string", default: "2" },
    threads: { type: "string", default: "2" },
  },
});
const [pairs, length, prompt, steps, warmup, threads] = [
  ...[values.pairs, values.length, values.prompt, values.steps, values.warmup, values.threads].map(Number),
];
const scores = values.objective !== "sft";

function waitForTurn() {
  writeSync(1, "ready\n");
  if (readSync(0, Buffer.alloc(1)) === 0) process.exit(1);
}

const backend = await openBackend("cpu", { precision: values.precision, threads });
const config = readModelConfig(JSON.parse(readFileSync(values.config, "utf8")));
const loaded = await randomDecoder(backend, config, 0, {});
const session = new Session(loaded, {
  ...{ method: "lora", rank: 8, alpha: 16, targets: "all-linear", optimizer: "adamw", weightDecay: 0 },
  ...{ objective: values.objective, beta: 0.1, seed: 0 },
});
const random = new Random(0, 1);
const completion = length - prompt;

function samplesOf(step) {
  return Array.from({ length: pairs }, (_, i) => {
    const total = prompt + (scores ? 2 : 1) * completion;
    return {
      ids: Int32Array.from({ length: total }, () => random.nextInt(config.vocabularySize)),
      targetMask: Uint8Array.from({ length: total }, (_, t) => (t < prompt ? 0 : 1)),
      rowId: { file: "random", line: step * pairs + i + 1, unit: "row" },
      ...(scores ? { fork: { prompt, completions: [completion, completion] } } : {}),
    };
  });
}

const times = [];
let loss;
for (let step = 0; step < warmup + steps; step++) {
  const samples = samplesOf(step);
  waitForTurn();
  const start = performance.now();
  await session.refer(samples, pairs * (prompt + 2 * completion), true);
  const referred = performance.now();
  ({ loss } = await session.trainStep([session.assemble(samples)], { learningRate: 1e-4 }));
  const end = performance.now();
  if (step >= warmup) times.push({ stepMs: end - referred, withReferenceMs: end - start });
}
waitForTurn();
const best = (key) => Math.min(...times.map((time) => time[key]));
const median = (key) => times.map((time) => time[key]).sort((a, b) => a - b)[times.length >> 1];
const result = {
  ...{ tool: "lowrank", objective: values.objective, device: backend.description, loss },
  ...{ stepMs: best("stepMs"), medianStepMs: median("stepMs") },
  ...{ withReferenceMs: best("withReferenceMs"), medianWithReferenceMs: median("withReferenceMs") },
  ...{ peakRssBytes: peakRssBytes(), peakBytes: backend.peakBytes },
};
writeSync(1, `${JSON.stringify(result)}\n`);
process.exit(0);
