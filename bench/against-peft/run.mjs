// Training steps of lowrank beside PEFT + torch on the same machine in one run: same shape, batch, length and threads,
// random weights, the two sides in turn, best of their steps. Prints a table of ratios, or JSON with --json.
//
//   node bench/against-peft/run.mjs --python .venv/bin/python --configs DIR [--cases 135m-256,1b] [--rounds 2] [--json]
//
// Needs a Python with torch, transformers and peft (bitsandbytes for the qlora cases), and a folder of config.json
// files named smollm_135m.json and tinyllama_1b_chat_v1.0.json. A development tool: nothing a user runs needs it.

import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const cases = {
  "135m-256": {
    config: "smollm_135m.json",
    batch: 2,
    length: 256,
    precision: "bf16",
    method: "lora",
    steps: 6,
  },
  "135m-512": {
    config: "smollm_135m.json",
    batch: 4,
    length: 512,
    precision: "bf16",
    method: "lora",
    steps: 3,
  },
  "1b-512": {
    config: "tinyllama_1b_chat_v1.0.json",
    batch: 1,
    length: 512,
    precision: "bf16",
    method: "lora",
    steps: 3,
  },
  "135m-256-fp32": {
    config: "smollm_135m.json",
    batch: 2,
    length: 256,
    precision: "fp32",
    method: "lora",
    steps: 4,
  },
  "135m-256-qlora": {
    config: "smollm_135m.json",
    batch: 2,
    length: 256,
    precision: "bf16",
    method: "qlora",
    steps: 4,
  },
  "1b-512-qlora": {
    config: "tinyllama_1b_chat_v1.0.json",
    batch: 1,
    length: 512,
    precision: "bf16",
    method: "qlora",
    steps: 2,
  },
};

const { values } = parseArgs({
  options: {
    python: { type: "string", default: process.env.LOWRANK_PYTHON ?? "python3" },
    configs: { type: "string" },
    cases: { type: "string", default: "135m-256,135m-512,1b-512,135m-256-fp32" },
    rounds: { type: "string", default: "2" },
    threads: { type: "string", default: String(cpus().length) },
    json: { type: "boolean", default: false },
  },
});
if (!values.configs || !existsSync(values.configs)) {
  console.error("give --configs DIR, a folder with smollm_135m.json and tinyllama_1b_chat_v1.0.json");
  process.exit(2);
}

const root = join(import.meta.dirname, "../..");

function lowrank(c) {
  const args = ["bench", "--model", join(values.configs, c.config), "--method", c.method, "--rank", "8"];
  args.push(
    "--batch-size",
    c.batch,
    "--sequence-length",
    c.length,
    "--steps",
    c.steps,
    "--precision",
    c.precision,
  );
  args.push("--threads", values.threads, "--gradient-checkpointing", "off", "--backend", "cpu", "--json");
  return run(process.execPath, [join(root, "dist/cli/main.js"), ...args.map(String)]);
}

function peft(c) {
  const args = [join(import.meta.dirname, "peft_step.py"), "--config", join(values.configs, c.config)];
  args.push(
    "--method",
    c.method,
    "--dtype",
    c.precision,
    "--batch-size",
    c.batch,
    "--sequence-length",
    c.length,
  );
  args.push("--steps", c.steps, "--threads", values.threads);
  return run(values.python, args.map(String));
}

function run(command, args) {
  const text = execFileSync(command, args, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
    maxBuffer: 1 << 26,
  });
  return JSON.parse(text.trim().split("\n").at(-1).startsWith("{") ? text.trim().split("\n").at(-1) : text);
}

const better = (a, b) => (a === undefined || b.tokensPerSecond.best > a.tokensPerSecond.best ? b : a);
const rows = [];
for (const name of values.cases.split(",")) {
  const c = cases[name];
  if (!c) throw new Error(`no case ${name}; there are ${Object.keys(cases).join(", ")}`);
  let ours;
  let theirs;
  for (let round = 0; round < Number(values.rounds); round++) {
    ours = better(ours, lowrank(c));
    theirs = better(theirs, peft(c));
  }
  rows.push({
    case: name,
    lowrank: ours.tokensPerSecond,
    peft: theirs.tokensPerSecond,
    speedRatio: ours.tokensPerSecond.best / theirs.tokensPerSecond.best,
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
    "| case | lowrank tok/s | PEFT tok/s | ratio | lowrank peak RSS | PEFT peak RSS | ratio | GFLOP/s | of measured peak |",
  );
  console.log("|---|---|---|---|---|---|---|---|---|");
  for (const r of rows) {
    const gb = (bytes) => `${(bytes / 1e9).toFixed(2)} GB`;
    console.log(
      `| ${r.case} | ${r.lowrank.best.toFixed(1)} | ${r.peft.best.toFixed(1)} | **${r.speedRatio.toFixed(2)}x** | ${gb(r.lowrankPeakRssBytes)} | ${gb(r.peftPeakRssBytes)} | ${r.memoryRatio.toFixed(2)}x | ${r.gflops.toFixed(0)} | ${r.peakFraction === null ? "-" : `${(100 * r.peakFraction).toFixed(1)}%`} |`,
    );
  }
}
