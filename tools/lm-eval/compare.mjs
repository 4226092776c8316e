// lm-evaluation-harness on `lowrank serve` and on transformers, with the same two tasks: a choice among four records of a
// story, and the record written freely. Prints both sides' metrics beside each other and fails where they differ by more
// than 0.1 points. Everything is made here from a seed and nothing is fetched: tasks are choose.yaml and write.yaml.
// Usage: LOWRANK_PYTHON=python-with-lm-eval-and-transformers node tools/lm-eval/compare.mjs [--model DIR] [--adapter DIR]
//        [--rows N]   (after npm run build; without --model the tiny base)

import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { makeRows } from "../../examples/quickstart/make-data.mjs";

/** Of metrics that go from 0 to 100; those that go to 1 are counted in hundredths. */
const mostDifference = 0.1;
const root = fileURLToPath(new URL("../..", import.meta.url));
const here = fileURLToPath(new URL(".", import.meta.url));
const { values } = parseArgs({
  options: {
    model: { type: "string", default: join(root, "models", "tiny-base") },
    adapter: { type: "string" },
    rows: { type: "string", default: "100" },
  },
});
const python = process.env.LOWRANK_PYTHON ?? "python3";
const model = resolve(values.model);
const adapter = values.adapter && resolve(values.adapter);
const folder = mkdtempSync(join(tmpdir(), "lowrank-lm-eval-"));
const offline = { HF_HUB_OFFLINE: "1", HF_DATASETS_OFFLINE: "1", HF_HOME: join(folder, "cache") };

writeTasks(Number(values.rows));
const server = await startServer();
let exitCode = 1;
try {
  const requests = `base_url=${server.url}/v1/completions,tokenizer_backend=huggingface,tokenizer=${model},add_bos_token=True,max_length=512`;
  const sides = {
    serve: evaluate("local-completions", `model=${adapter ? "tuned" : "base"},${requests}`, "8", "serve"),
    transformers: evaluate(
      "hf",
      `pretrained=${model},dtype=float32,add_bos_token=True${adapter ? `,peft=${adapter}` : ""}`,
      "8",
      "transformers",
    ),
  };
  exitCode = report(sides);
} finally {
  server.process.kill("SIGTERM");
  rmSync(folder, { recursive: true, force: true });
}
process.exit(exitCode);

function writeTasks(count) {
  const rows = makeRows(count, { heldOut: true });
  const choices = rows.map(({ prompt, completion }, i) => {
    const others = [1, 2, 3].map((step) => rows[(i + step * 7) % rows.length].completion);
    const options = [...others.slice(0, i % 4), completion, ...others.slice(i % 4)];
    return { prompt, options, answer: i % 4 };
  });
  const lines = (list) => list.map((row) => `${JSON.stringify(row)}\n`).join("");
  writeFileSync(join(folder, "choose.jsonl"), lines(choices));
  writeFileSync(join(folder, "write.jsonl"), lines(rows));
  for (const task of ["choose.yaml", "write.yaml"]) copyFileSync(join(here, task), join(folder, task));
}

async function startServer() {
  const flags = ["serve", "--model", model, "--name", "base", "--port", "0", "--precision", "fp32", "--json"];
  if (adapter) flags.push("--adapter", `tuned=${adapter}`);
  const child = spawn(process.execPath, [join(root, "dist/cli/main.js"), ...flags, "--backend", "cpu"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const url = await new Promise((resolve, reject) => {
    let text = "";
    child.stdout.on("data", (data) => {
      text += data;
      const found = /"url":\s*"([^"]+)"/.exec(text);
      if (found) resolve(found[1]);
    });
    child.on("exit", (code) => reject(new Error(`lowrank serve ended with ${code}`)));
  });
  return { process: child, url };
}

/** The harness's metrics by task. */
function evaluate(kind, modelArgs, batchSize, name) {
  const out = join(folder, name);
  const started = performance.now();
  const flags = ["--model", kind, "--model_args", modelArgs, "--tasks", "lowrank_choose,lowrank_write"];
  const run = spawnSync(
    python,
    [
      ...["-m", "lm_eval", "run", ...flags, "--include_path", folder, "--output_path", out],
      ...["--batch_size", batchSize, ...(kind === "hf" ? ["--device", "cpu"] : [])],
    ],
    { cwd: folder, env: { ...process.env, ...offline }, encoding: "utf8" },
  );
  if (run.status !== 0)
    throw new Error(`lm_eval (${kind}) ended with ${run.status}:\n${run.stderr.slice(-4000)}`);
  const files = readdirSync(out, { recursive: true }).filter((file) => /results_.*\.json$/.test(file));
  const { results } = JSON.parse(readFileSync(join(out, files[0]), "utf8"));
  return { results, seconds: (performance.now() - started) / 1000 };
}

function report({ serve, transformers }) {
  let worst = 0;
  console.log("task            metric        serve   transformers");
  for (const [task, metrics] of Object.entries(serve.results)) {
    for (const [metric, value] of Object.entries(metrics)) {
      if (typeof value !== "number" || /_stderr|sample_len/.test(metric)) continue;
      const other = transformers.results[task][metric];
      const points = /^(bleu|chrf)/.test(metric) ? 1 : 100;
      worst = Math.max(worst, Math.abs(value - other) * points);
      const cells = [task.padEnd(15), metric.replace(",none", "").padEnd(12)];
      console.log(...cells, (value * points).toFixed(3).padStart(7), (other * points).toFixed(3).padStart(7));
    }
  }
  console.log(`seconds, all included: ${serve.seconds.toFixed(0)} and ${transformers.seconds.toFixed(0)}`);
  console.log(`largest difference: ${worst.toFixed(3)} points; at most ${mostDifference} are allowed`);
  return worst <= mostDifference ? 0 : 1;
}
