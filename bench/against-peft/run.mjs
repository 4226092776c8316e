// Training steps of lowrank beside PEFT + torch on the same machine in one run: same shape, batch, length and threads,
// random weights. Both sides are loaded first and take turns of one step, so that what else happens on the machine meets
// both; the best of their steps count. Prints a table of ratios, or JSON with --json.
//
//   node bench/against-peft/run.mjs --python .venv/bin/python --configs DIR [--cases 135m-256,1b-512] [--steps N] [--json]
//
// Needs a Python with torch, transformers and peft (bitsandbytes for the qlora cases), and a folder of config.json
// files named smollm_135m.json, tinyllama_1b_chat_v1.0.json and qwen3.5_0.8b.json, those that the cases ask for. A development tool: nothing a user runs needs it.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";

const cases = {
  "135m-256": {
    config: "smollm_135m.json",
    batch: 2,
    length: 256,
    precision: "bf16",
    method: "lora",
    steps: 16,
  },
  "135m-512": {
    config: "smollm_135m.json",
    batch: 4,
    length: 512,
    precision: "bf16",
    method: "lora",
    steps: 6,
  },
  "1b-512": {
    config: "tinyllama_1b_chat_v1.0.json",
    batch: 1,
    length: 512,
    precision: "bf16",
    method: "lora",
    steps: 6,
  },
  "135m-256-fp32": {
    config: "smollm_135m.json",
    batch: 2,
    length: 256,
    precision: "fp32",
    method: "lora",
    steps: 10,
  },
  "135m-256-qlora": {
    config: "smollm_135m.json",
    batch: 2,
    length: 256,
    precision: "bf16",
    method: "qlora",
    steps: 12,
  },
  "qwen3.5-512": {
    config: "qwen3.5_0.8b.json",
    batch: 1,
    length: 512,
    precision: "bf16",
    method: "lora",
    steps: 4,
  },
  "1b-512-qlora": {
    config: "tinyllama_1b_chat_v1.0.json",
    batch: 1,
    length: 512,
    precision: "bf16",
    method: "qlora",
    steps: 6,
  },
};

const { values } = parseArgs({
  options: {
    python: { type: "string", default: process.env.LOWRANK_PYTHON ?? "python3" },
    configs: { type: "string" },
    cases: { type: "string", default: "135m-256,135m-512,1b-512,135m-256-fp32" },
    steps: { type: "string" },
    threads: { type: "string", default: String(cpus().length) },
    json: { type: "boolean", default: false },
  },
});
if (!values.configs || !existsSync(values.configs)) {
  console.error("give --configs DIR, a folder with smollm_135m.json and tinyllama_1b_chat_v1.0.json");
  process.exit(2);
}

const flagsOf = (c) => [
  ...["--method", c.method, "--batch-size", c.batch, "--sequence-length", c.length],
  ...["--steps", values.steps ?? c.steps, "--warmup", warmup, "--threads", values.threads],
];

function lowrank(c) {
  const flags = [
    "--precision",
    c.precision,
    "--rank",
    8,
    "--gradient-checkpointing",
    "off",
    "--backend",
    "cpu",
  ];
  const args = ["--model", join(values.configs, c.config), ...flags, ...flagsOf(c)];
  return start(process.execPath, [join(import.meta.dirname, "lowrank-steps.mjs"), ...args]);
}

function peft(c) {
  const args = ["--config", join(values.configs, c.config), "--dtype", c.precision, "--turns", ...flagsOf(c)];
  return start(values.python, [join(import.meta.dirname, "peft_step.py"), ...args]);
}

const warmup = 2;

/** A side at its first turn. turn() lets it do a step, and resolves to what it says then: "ready", or its result. */
async function start(command, args) {
  const child = spawn(command, args.map(String), { stdio: ["pipe", "pipe", "ignore"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${command} ${args.join(" ")} ended without a result`);
    return value;
  };
  await next();
  const turn = () => {
    child.stdin.write("\n");
    return next();
  };
  return { turn };
}

/** [lowrank's result, PEFT's]. */
async function takeTurns(c) {
  const sides = [await lowrank(c), await peft(c)];
  for (let step = 0; step < warmup + Number(values.steps ?? c.steps); step++) {
    for (const side of sides) {
      await side.turn();
      await setTimeout(100); // until the threads of the one that has finished stand still
    }
  }
  const results = [];
  for (const side of sides) results.push(JSON.parse(await side.turn()));
  return results;
}

const rows = [];
for (const name of values.cases.split(",")) {
  const c = cases[name];
  if (!c) throw new Error(`no case ${name}; there are ${Object.keys(cases).join(", ")}`);
  const [ours, theirs] = await takeTurns(c);
  rows.push({
    case: name,
    lowrank: ours.tokensPerSecond,
    peft: theirs.tokensPerSecond,
    speedRatio: ours.tokensPerSecond.best / theirs.tokensPerSecond.best,
    medianSpeedRatio: ours.tokensPerSecond.median / theirs.tokensPerSecond.median,
    lowrankPeakRssBytes: ours.peakRssBytes,
    peftPeakRssBytes: theirs.peakRssBytes,
    memoryRatio: ours.peakRssBytes / theirs.peakRssBytes,
    gflops: ours.gflops,
    peakGflops: ours.peakGflops,
    peakFraction: ours.peakFraction,
    device: ours.device,
  });
}
if (values.json) console.log(JSON.stringify(rows, null, 2));
else {
  console.log(
    "| case | lowrank tok/s | PEFT tok/s | ratio | of medians | lowrank peak RSS | PEFT peak RSS | ratio | GFLOP/s | of measured peak |",
  );
  console.log("|---|---|---|---|---|---|---|---|---|---|");
  for (const r of rows) {
    const gb = (bytes) => `${(bytes / 1e9).toFixed(2)} GB`;
    console.log(
      `| ${r.case} | ${r.lowrank.best.toFixed(1)} | ${r.peft.best.toFixed(1)} | **${r.speedRatio.toFixed(2)}x** | ${r.medianSpeedRatio.toFixed(2)}x | ${gb(r.lowrankPeakRssBytes)} | ${gb(r.peftPeakRssBytes)} | ${r.memoryRatio.toFixed(2)}x | ${r.gflops.toFixed(0)} | ${r.peakFraction === null ? "-" : `${(100 * r.peakFraction).toFixed(1)}%`} |`,
    );
  }
}
