// The real task, both sides in one run: a small real base learns E2E restaurant descriptions with LoRA, by lowrank and
// by PEFT, on the same rows with the same budget; perplexity and BLEU before and after on unseen meanings.
//
//   node tools/convert-e2e.mjs valid.txt train.jsonl
//   node tools/convert-e2e.mjs test.txt test.jsonl --group --unseen valid.txt
//   node bench/real-task/run.mjs --model BASE --train train.jsonl --test test.jsonl --python .venv/bin/python
//        [--methods lora] [--rank 16] [--alpha 32] [--learning-rate 3e-3] [--seeds 0,1] [--no-peft] [--work DIR]
//
// PEFT's half is peft_task.py and needs torch, transformers, peft and sacrebleu.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    train: { type: "string" },
    test: { type: "string" },
    python: { type: "string", default: process.env.LOWRANK_PYTHON ?? "python3" },
    methods: { type: "string", default: "lora" },
    rank: { type: "string", default: "16" },
    alpha: { type: "string", default: "32" },
    "learning-rate": { type: "string", default: "3e-3" },
    steps: { type: "string", default: "700" },
    seeds: { type: "string", default: "0,1" },
    precision: { type: "string", default: "auto" },
    peft: { type: "boolean", default: true },
    work: { type: "string" },
  },
  allowNegative: true,
});
for (const key of ["model", "train", "test"]) {
  if (!values[key]) {
    console.error(`give --${key}`);
    process.exit(2);
  }
}

const cli = join(import.meta.dirname, "../../dist/cli/main.js");
const work = values.work ?? mkdtempSync(join(tmpdir(), "lowrank-task-"));
const quiet = { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"], maxBuffer: 1 << 26 };
const lowrank = (...args) => JSON.parse(execFileSync(process.execPath, [cli, ...args, "--json"], quiet));

function measure(model, adapter) {
  const args = ["--model", model, ...(adapter ? ["--adapter", adapter] : []), "--data", values.test];
  const { perplexity, bleu } = lowrank(
    "eval",
    ...args,
    "--metrics",
    "perplexity,bleu",
    "--max-new-tokens",
    "80",
    "--precision",
    values.precision,
  );
  return { perplexity, bleu };
}

const results = [];
const before = measure(values.model);
for (const method of values.methods.split(",")) {
  for (const seed of values.seeds.split(",")) {
    const out = join(work, `${method}-${seed}`);
    const flags = [
      "--rank",
      values.rank,
      "--alpha",
      values.alpha,
      "--max-steps",
      values.steps,
      "--batch-size",
      "16",
    ];
    flags.push(
      "--sequence-length",
      "512",
      "--learning-rate",
      values["learning-rate"],
      "--warmup-steps",
      "20",
    );
    flags.push("--precision", values.precision, "--seed", seed, "--method", method);
    const run = lowrank("train", "--model", values.model, "--data", values.train, "--out", out, ...flags);
    const after = method === "full" ? measure(out) : measure(values.model, out);
    results.push({
      tool: "lowrank",
      method,
      seed: Number(seed),
      before,
      after,
      seconds: run.elapsedMs / 1000,
      tokensPerSecond: run.tokensPerSecond,
      finalLoss: run.finalLoss,
    });
    console.error(JSON.stringify(results.at(-1)));
    if (!values.peft || method === "qlora") continue;
    const script = join(import.meta.dirname, "peft_task.py");
    const args = [
      "--model",
      values.model,
      "--train",
      values.train,
      "--test",
      values.test,
      "--rank",
      values.rank,
      "--alpha",
      values.alpha,
    ];
    args.push(
      "--steps",
      values.steps,
      "--learning-rate",
      values["learning-rate"],
      "--seed",
      seed,
      "--method",
      method,
    );
    results.push(
      JSON.parse(
        execFileSync(values.python, [script, ...args], quiet)
          .trim()
          .split("\n")
          .at(-1),
      ),
    );
    console.error(JSON.stringify(results.at(-1)));
  }
}
if (!values.work) rmSync(work, { recursive: true, force: true });
console.log(
  "| tool | method | seed | perplexity before | after | BLEU before | after | train s | tokens/s |",
);
console.log("|---|---|---|---|---|---|---|---|---|");
for (const r of results) {
  const cells = [
    r.tool,
    r.method,
    r.seed,
    r.before.perplexity.toFixed(1),
    r.after.perplexity.toFixed(3),
    r.before.bleu.toFixed(2),
  ];
  console.log(
    `| ${[...cells, r.after.bleu.toFixed(2), r.seconds.toFixed(1), r.tokensPerSecond.toFixed(0)].join(" | ")} |`,
  );
}
