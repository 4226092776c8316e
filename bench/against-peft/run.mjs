// Training steps of lowrank beside PEFT + torch on the same machine in one run: same shape, batch, length and threads,
// random weights. Both sides are loaded first and take turns of one step, so that what else happens on the machine meets
// both; the best of their steps count. Prints a table of ratios, or JSON with --json.
//
//   node bench/against-peft/run.mjs --python .venv/bin/python --configs DIR [--cases 135m-256,1b-512] [--steps N] [--json]
//       [--isa avx2|avx512|avx512bf16|amx]
//
// With --isa both sides are held to that instruction set, by what is set for their processes alone (isas.mjs).
//
// Needs a Python with torch, transformers and peft (bitsandbytes for the qlora cases), and a folder of config.json
// files named smollm_135m.json, tinyllama_1b_chat_v1.0.json, gemma3_1b.json and qwen3.5_0.8b.json, those that the cases ask for; cases of mixtures bring their shape. A development tool: nothing a user runs needs it.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";
import { defaultCases, isas, lowrankEnvironment, torchEnvironment } from "./isas.mjs";

/** 12 of Qwen3-30B-A3B's 48 layers with 16 of their 128 experts, all 8 of a token's, and the whole head. */
const moe16 = {
  ...{ model_type: "qwen3_moe", hidden_size: 2048, intermediate_size: 6144, moe_intermediate_size: 768 },
  ...{ num_attention_heads: 32, num_key_value_heads: 4, head_dim: 128, num_hidden_layers: 12 },
  ...{ num_experts: 16, num_experts_per_tok: 8, norm_topk_prob: true, vocab_size: 151936 },
  ...{ max_position_embeddings: 40960, rope_theta: 1000000, rms_norm_eps: 1e-6, tie_word_embeddings: false },
};

const cases = {
  "moe16-512": {
    ...{ shape: moe16, batch: 1, length: 512, precision: "bf16", method: "lora", steps: 4 },
    targets: "experts",
  },
  // Beside its own bf16 LoRA in place of PEFT, which cannot quantise experts.
  "moe16-512-qlora": {
    ...{ shape: moe16, batch: 1, length: 512, precision: "bf16", method: "qlora", steps: 6 },
    ...{ targets: "experts", against: "lora" },
  },
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
  "135m-256-qlora-fp32": {
    config: "smollm_135m.json",
    batch: 2,
    length: 256,
    precision: "fp32",
    method: "qlora",
    steps: 10,
  },
  "1b-512-fp32": {
    config: "tinyllama_1b_chat_v1.0.json",
    batch: 1,
    length: 512,
    precision: "fp32",
    method: "lora",
    steps: 5,
  },
  "1b-512-qlora-fp32": {
    config: "tinyllama_1b_chat_v1.0.json",
    batch: 1,
    length: 512,
    precision: "fp32",
    method: "qlora",
    steps: 5,
  },
  "qwen3.5-512": {
    config: "qwen3.5_0.8b.json",
    batch: 1,
    length: 512,
    precision: "bf16",
    method: "lora",
    steps: 4,
  },
  "gemma3-512": {
    config: "gemma3_1b.json",
    batch: 1,
    length: 512,
    precision: "bf16",
    method: "lora",
    steps: 5,
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
    cases: { type: "string" },
    isa: { type: "string" },
    steps: { type: "string" },
    threads: { type: "string", default: String(cpus().length) },
    json: { type: "boolean", default: false },
  },
});
const { isa } = values;
if (isa !== undefined && !isas.includes(isa)) {
  console.error(`--isa ${isa}: expected one of ${isas.join(", ")}`);
  process.exit(2);
}
const names = (values.cases ?? defaultCases(isa)).split(",");
const asked = names.map((name) => cases[name]);
if (asked.some((c) => c && !c.shape) && (!values.configs || !existsSync(values.configs))) {
  console.error("give --configs DIR, a folder with smollm_135m.json and tinyllama_1b_chat_v1.0.json");
  process.exit(2);
}

const folder = mkdtempSync(join(tmpdir(), "lowrank-against-peft-"));
const configOf = (c) => {
  if (!c.shape) return join(values.configs, c.config);
  writeFileSync(join(folder, "config.json"), JSON.stringify(c.shape));
  return join(folder, "config.json");
};

const flagsOf = (c) => [
  ...["--targets", c.targets ?? "all-linear"],
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
  const args = ["--model", configOf(c), ...flags, ...flagsOf(c)];
  const script = join(import.meta.dirname, "lowrank-steps.mjs");
  return start(process.execPath, [script, ...args], lowrankEnvironment(isa));
}

function peft(c) {
  const args = ["--config", configOf(c), "--dtype", c.precision, "--turns", ...flagsOf(c)];
  return start(values.python, [join(import.meta.dirname, "peft_step.py"), ...args], torchEnvironment(isa));
}

const warmup = 2;

/** A side at its first turn. turn() lets it do a step, and resolves to what it says then: "ready", or its result. */
async function start(command, args, environment) {
  const env = { ...process.env, ...environment };
  const child = spawn(command, args.map(String), { stdio: ["pipe", "pipe", "ignore"], env });
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
  const sides = [await lowrank(c), c.against ? await lowrank({ ...c, method: c.against }) : await peft(c)];
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
for (const name of names) {
  const c = cases[name];
  if (!c) throw new Error(`no case ${name}; there are ${Object.keys(cases).join(", ")}`);
  const [ours, theirs] = await takeTurns(c);
  rows.push({
    case: name,
    isa: isa ?? null,
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
rmSync(folder, { recursive: true });
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
