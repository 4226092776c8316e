// DPO steps of lowrank beside TRL + PEFT on the same machine in one run, and beside lowrank's own step of supervised
// fine-tuning on the chosen completions alone: random weights and tokens, pairs of one length that share a prompt. All are
// loaded first and take turns of one step, so that what else happens on the machine meets all; the best of their steps count.
//
//   node bench/against-trl/run.mjs --python .venv/bin/python --config smollm_135m.json [--precision bf16] [--steps 6]
//     [--pairs 4] [--length 512] [--prompt 256] [--json]
//
// TRL takes the reference's pass in every step; lowrank takes it ahead of the run, once a row however many epochs follow, and
// is held against TRL with it. Needs a Python with torch, transformers, peft and trl. A development tool.

import { spawn } from "node:child_process";
import { cpus } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    python: { type: "string", default: process.env.LOWRANK_PYTHON ?? "python3" },
    config: { type: "string" },
    precision: { type: "string", default: "bf16" },
    pairs: { type: "string", default: "4" },
    length: { type: "string", default: "512" },
    prompt: { type: "string", default: "256" },
    steps: { type: "string", default: "6" },
    threads: { type: "string", default: String(cpus().length) },
    json: { type: "boolean", default: false },
  },
});
if (!values.config) {
  console.error("give --config F, a model's config.json");
  process.exit(2);
}
const warmup = 2;
const { json: _, python, ...given } = values;
const flags = Object.entries({ ...given, warmup }).flatMap(([key, value]) => [`--${key}`, String(value)]);

/** A side at its first turn. turn() lets it do a step, and resolves to what it says then: "ready", or its result. */
async function start(command, args) {
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "ignore"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${command} ${args.join(" ")} ended without a result`);
    return value;
  };
  const ready = async () => {
    let line = await next();
    while (line !== "ready" && !line.startsWith("{")) line = await next();
    return line;
  };
  await ready();
  return () => {
    child.stdin.write("\n");
    return ready();
  };
}

const ownSteps = (objective) =>
  start(process.execPath, [
    join(import.meta.dirname, "lowrank-steps.mjs"),
    ...flags,
    "--objective",
    objective,
  ]);
const turns = [
  await ownSteps("dpo"),
  await ownSteps("sft"),
  await start(python, [join(import.meta.dirname, "trl_step.py"), ...flags]),
];
for (let step = 0; step < warmup + Number(values.steps); step++) {
  for (const turn of turns) {
    await turn();
    await setTimeout(100); // until the threads of the one that has finished stand still
  }
}
const results = [];
for (const turn of turns) results.push(JSON.parse(await turn()));
const [ours, alone, theirs] = results;
const summary = {
  versions: { trl: theirs.trl, torch: theirs.torch, transformers: theirs.transformers, peft: theirs.peft },
  device: ours.device,
  speedRatio: theirs.withReferenceMs / ours.withReferenceMs,
  medianSpeedRatio: theirs.medianWithReferenceMs / ours.medianWithReferenceMs,
  memoryRatio: ours.peakRssBytes / theirs.peakRssBytes,
  stepOverSft: ours.stepMs / alone.stepMs,
  medianStepOverSft: ours.medianStepMs / alone.medianStepMs,
  ...{ lowrank: ours, sft: alone, trl: theirs },
};
if (values.json) console.log(JSON.stringify(summary, null, 2));
else {
  const gb = (bytes) => `${(bytes / 1e9).toFixed(2)} GB`;
  console.log(
    `DPO, ${values.pairs} pairs of ${values.length} with prompts of ${values.prompt}, ${values.precision}`,
  );
  console.log(
    `  TRL ${theirs.trl}: ${theirs.withReferenceMs.toFixed(0)} ms a step, ${gb(theirs.peakRssBytes)}`,
  );
  console.log(
    `  lowrank: ${ours.withReferenceMs.toFixed(0)} ms with the reference's pass, ${ours.stepMs.toFixed(0)} ms a step, ${gb(ours.peakRssBytes)}`,
  );
  console.log(
    `  ${summary.speedRatio.toFixed(2)}x as fast (medians: ${summary.medianSpeedRatio.toFixed(2)}x), ${summary.memoryRatio.toFixed(2)}x the memory`,
  );
  console.log(
    `  a step is ${summary.stepOverSft.toFixed(2)}x one of SFT on the chosen alone, ${alone.stepMs.toFixed(0)} ms (medians: ${summary.medianStepOverSft.toFixed(2)}x)`,
  );
}
process.exit(0);
