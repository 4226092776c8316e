// Shows what --paged is for: full fine-tuning whose optimizer state is several times larger than the memory it may
// have. Four runs of the same training, each a process of its own:
//   free, unpaged       no limit: what is to be reproduced
//   free, paged         no limit: what paging itself costs
//   limited, unpaged    must end with a clear error, not with a crash
//   limited, paged      must end with the bytes of the first
// The limit is a memory control group (version 1 or 2, needs the right to make one), else RLIMIT_DATA by prlimit.
//   node bench/paging.mjs [--config CONFIG.json] [--steps N] [--folder DIR] [--json]
// Needs the built package and about 12 bytes of disk a parameter.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { makeRandomModel } from "../tools/make-random-model.mjs";

const { values: options } = parseArgs({
  options: {
    config: { type: "string" },
    steps: { type: "string", default: "4" },
    folder: { type: "string", default: tmpdir() },
    json: { type: "boolean", default: false },
  },
});

/** 110 million parameters: 0.44 GB of weights in f32, as much of gradients, 0.88 GB of optimizer state. */
const defaultShape = {
  ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: 16000, hidden_size: 768 },
  ...{ intermediate_size: 2048, num_hidden_layers: 12, num_attention_heads: 12, num_key_value_heads: 12 },
  ...{ max_position_embeddings: 1024, rms_norm_eps: 1e-5, rope_theta: 10000, hidden_act: "silu" },
  tie_word_embeddings: false,
};

const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const root = mkdtempSync(join(options.folder, "lowrank-paging-"));
const say = (text) => (options.json ? process.stderr : process.stdout).write(`${text}\n`);

/** Memory that the process has beside tensors: Node itself, its threads, the data. */
const processBytes = 350e6;

async function demonstrate() {
  const shape = options.config ? JSON.parse(readFileSync(options.config, "utf8")) : defaultShape;
  const model = join(root, "model");
  const parameters = await makeRandomModel(shape, model, 1);
  const [weightBytes, stateBytes] = [4 * parameters, 8 * parameters];
  const budgetBytes = Math.floor(stateBytes / 8);
  const limitBytes = 2 * weightBytes + budgetBytes + processBytes;
  const rows = Array.from({ length: 64 }, (_, i) => ({
    text: `row ${i} of a text that is there to be trained on`,
  }));
  const data = join(root, "rows.jsonl");
  writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  say(
    `${millions(parameters)} parameters: weights and gradients ${gigabytes(2 * weightBytes)}, optimizer state ${gigabytes(stateBytes)}; ` +
      `budget for it ${gigabytes(budgetBytes)}, limit of the process ${gigabytes(limitBytes)}`,
  );
  const train = (name, paged, limited) => {
    const out = join(root, name);
    const flags = [
      ...["train", "--method", "full", "--backend", "cpu", "--model", model, "--data", data, "--out", out],
      ...[
        "--max-steps",
        options.steps,
        "--batch-size",
        "2",
        "--sequence-length",
        "64",
        "--schedule",
        "constant",
      ],
      ...(paged ? ["--paged", "--paged-budget", String(budgetBytes)] : []),
    ];
    return { name, ...summarise(out, runLimited(flags, limited ? limitBytes : undefined)) };
  };
  const runs = [
    train("free-unpaged", false, false),
    train("free-paged", true, false),
    train("limited-unpaged", false, true),
    train("limited-paged", true, true),
  ];
  report({ parameters, stateBytes, budgetBytes, limitBytes, runs });
}

/** Runs the command under a limit of memory, and says by what means. */
function runLimited(flags, limitBytes) {
  const run = (command, args) => spawnSync(command, args, { encoding: "utf8", maxBuffer: 1 << 26 });
  if (limitBytes === undefined) return { by: "no limit", ...run(process.execPath, [main, ...flags]) };
  const group = makeGroup(limitBytes);
  if (group) {
    const script = `echo $$ > ${group.path}/cgroup.procs && exec "$0" "$@"`;
    const result = run("sh", ["-c", script, process.execPath, main, ...flags]);
    const peakBytes = Number(readFileSync(join(group.path, group.peak), "utf8"));
    rmdirSync(group.path);
    return { by: group.kind, groupPeakBytes: peakBytes, ...result };
  }
  const command = [`--data=${Math.floor(limitBytes)}`, process.execPath, main, ...flags];
  return { by: "RLIMIT_DATA", ...run("prlimit", command) };
}

/** A control group with this limit, or undefined where none may be made. */
function makeGroup(limitBytes) {
  const kinds = [
    {
      kind: "control group, version 1",
      under: "/sys/fs/cgroup/memory",
      limit: "memory.limit_in_bytes",
      peak: "memory.max_usage_in_bytes",
    },
    { kind: "control group, version 2", under: "/sys/fs/cgroup", limit: "memory.max", peak: "memory.peak" },
  ];
  for (const { kind, under, limit, peak } of kinds) {
    const path = join(under, `lowrank-paging-${process.pid}`);
    try {
      accessSync(under, constants.W_OK);
      mkdirSync(path);
      writeFileSync(join(path, limit), String(Math.floor(limitBytes)));
      if (existsSync(join(path, peak))) return { kind, path, peak };
    } catch {
      // Not mounted, or not ours to change: the next kind.
    }
    if (existsSync(path)) rmdirSync(path);
  }
  return undefined;
}

function summarise(out, { by, status, signal, stderr, groupPeakBytes }) {
  const base = { by, status: status ?? signal, groupPeakBytes };
  if (status !== 0) return { ...base, message: stderr.trim().split("\n").at(-1) };
  const record = JSON.parse(readFileSync(join(out, "run.json"), "utf8"));
  const lines = readFileSync(join(out, "metrics.jsonl"), "utf8").trimEnd().split("\n");
  const elapsed = lines.map((line) => JSON.parse(line)).filter((line) => line.type === "train");
  const stepMs = elapsed.slice(1).map((line, i) => line.elapsedMs - elapsed[i].elapsedMs);
  return {
    ...base,
    stepMs: stepMs.toSorted((a, b) => a - b)[Math.floor(stepMs.length / 2)],
    peakRssBytes: record.peakRssBytes,
    optimizerBytes: record.memory.live.optimizer,
    loss: elapsed.at(-1).loss,
    sha256: createHash("sha256")
      .update(readFileSync(join(out, "model.safetensors")))
      .digest("hex"),
  };
}

function report(result) {
  const [reference, freePaged, , limitedPaged] = result.runs;
  const identical = result.runs.filter((run) => run.sha256).every((run) => run.sha256 === reference.sha256);
  const full = {
    ...result,
    identical,
    stateOverBudget: result.stateBytes / result.budgetBytes,
    slowdownFree: freePaged.stepMs / reference.stepMs,
    slowdownLimited: limitedPaged.stepMs / reference.stepMs,
  };
  if (options.json) return process.stdout.write(`${JSON.stringify(full)}\n`);
  for (const run of result.runs) {
    const figures = run.sha256
      ? `${run.stepMs} ms a step, ${gigabytes(run.optimizerBytes)} of state in memory, peak RSS ${gigabytes(run.peakRssBytes)}, weights ${run.sha256.slice(0, 12)}`
      : `status ${run.status}: ${run.message}`;
    say(`${run.name.padEnd(16)} (${run.by}): ${figures}`);
  }
  say(
    `state is ${full.stateOverBudget.toFixed(1)} times the budget; final weights ${identical ? "identical" : "DIFFERENT"}; ` +
      `paging makes a step ${full.slowdownFree.toFixed(2)} times as long, under the limit ${full.slowdownLimited.toFixed(2)} times`,
  );
}

function gigabytes(bytes) {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

function millions(count) {
  return `${(count / 1e6).toFixed(0)}M`;
}

try {
  await demonstrate();
} finally {
  rmSync(root, { recursive: true, force: true });
}
