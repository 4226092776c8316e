// The recipe of models/tiny-base, from story files to a finished model folder: text, tokenizer, random start,
// training with lowrank itself, bfloat16 weights, measured loss, model card. Takes about half an hour on
// two cores. The text and everything in between go to a work folder outside version control.
// Usage: node tools/make-tiny-base/make.mjs --stories FILE [--stories FILE ...] [--work DIR] [--out DIR]
//        [--steps N] [--seed N] [-- more flags for train]

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openFile } from "../../dist/formats/disk.js";
import { writeModelFolder } from "../../dist/formats/model-folder-writer.js";
import { openSafetensors } from "../../dist/formats/safetensors.js";
import { decodeToF32, encodeFrom } from "../../dist/tensor/dtype.js";
import { writeCorpus } from "./corpus.mjs";
import { modelConfig, parameterCount, SHAPE, writeRandomModel } from "./init-model.mjs";
import { modelCard } from "./model-card.mjs";
import { writeTokenizer } from "./train-bpe.mjs";

const GENERATED_ROWS = 3000;
/** A step sees batch size times sequence length tokens, packed: 2,048. */
const TRAINING = {
  "sequence-length": "512",
  "batch-size": "4",
  "learning-rate": "3e-3",
  schedule: "cosine",
  "warmup-steps": "100",
  "weight-decay": "0.1",
  beta2: "0.95",
  "train-on": "all",
};

const cli = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const { values, positionals } = parseArgs({
  options: {
    stories: { type: "string", multiple: true },
    work: { type: "string", default: "runs/tiny-base" },
    out: { type: "string", default: "models/tiny-base" },
    steps: { type: "string", default: "4000" },
    seed: { type: "string", default: "1" },
  },
  allowPositionals: true,
});
const missing = (values.stories ?? []).filter((path) => !existsSync(path));
if (values.stories === undefined || missing.length > 0) {
  console.error(
    missing.length > 0
      ? `There is no such story file: ${missing.join(", ")}`
      : "Give at least one text file of TinyStories: --stories FILE",
  );
  process.exit(2);
}
const seed = Number(values.seed);
const start = join(values.work, "start");
const trained = join(values.work, "trained");

const corpus = writeCorpus({
  storyPaths: values.stories,
  outDir: join(values.work, "corpus"),
  seed,
  generatedCount: GENERATED_ROWS,
});
console.log(
  `Text: ${corpus.train} stories to learn from, ${corpus.heldOut} held out, ${GENERATED_ROWS} generated rows`,
);
writeTokenizer(corpus.rows, start, SHAPE.vocab_size, SHAPE.max_position_embeddings);
await writeRandomModel(start, seed);
console.log(`Start: ${parameterCount()} random parameters and ${SHAPE.vocab_size} tokens in ${start}`);

const before = heldOutPerplexity(start);
const flags = Object.entries(TRAINING).flatMap(([name, value]) => [`--${name}`, value]);
const startedAt = performance.now();
lowrank(
  ["train", "--method", "full", "--model", start, "--data", corpus.trainPath, "--out", trained, "--packing"]
    .concat(flags, ["--max-steps", values.steps, "--seed", values.seed])
    .concat(["--eval-data", corpus.heldOutPath, "--eval-every", "500", "--save-every", "500"], positionals),
  "inherit",
);
const minutes = (performance.now() - startedAt) / 60000;

mkdirSync(values.out, { recursive: true });
await storeBfloat16(join(trained, "model.safetensors"), values.out);
for (const name of ["tokenizer.json", "tokenizer_config.json"])
  copyFileSync(join(start, name), join(values.out, name));
const after = heldOutPerplexity(values.out);
const tokens = readTokenCount(join(trained, "metrics.jsonl"));
writeFileSync(
  join(values.out, "README.md"),
  modelCard({
    corpus,
    generatedRows: GENERATED_ROWS,
    steps: values.steps,
    seed,
    tokens,
    minutes,
    before,
    after,
    training: TRAINING,
  }),
);
console.log(
  `Held-out perplexity ${before.toFixed(1)} before, ${after.toFixed(2)} after; ${values.out} is written.`,
);

/** Runs one lowrank command and ends this script if it fails. */
function lowrank(args, stdout) {
  const run = spawnSync(process.execPath, [cli, ...args], {
    stdio: ["ignore", stdout, "inherit"],
    encoding: "utf8",
  });
  if (run.error !== undefined) throw run.error;
  if (run.status !== 0) process.exit(run.status ?? 1);
  return run.stdout;
}

function heldOutPerplexity(model) {
  const flags = ["--metrics", "perplexity", "--train-on", "all", "--sequence-length", "512", "--json"];
  return JSON.parse(lowrank(["eval", "--model", model, "--data", corpus.heldOutPath, ...flags], "pipe"))
    .perplexity;
}

/** Writes the weights once more in bfloat16, with the config that says so. */
async function storeBfloat16(weights, outDir) {
  const file = await openSafetensors(await openFile(weights));
  const tensors = [...file.tensors.values()].map(({ name, dtype, shape }) => ({
    name,
    dtype: "BF16",
    shape,
    data: async () => {
      const bytes = await file.readTensor(name);
      return dtype === "BF16" ? bytes : encodeFrom(decodeToF32(bytes, "f32"), "bf16");
    },
  }));
  await writeModelFolder(outDir, { config: modelConfig("bfloat16"), tensors });
  await file.close();
}

/** Tokens seen in training, summed over the steps. */
function readTokenCount(metrics) {
  const lines = readFileSync(metrics, "utf8").trimEnd().split("\n");
  return lines
    .map((line) => JSON.parse(line))
    .reduce((sum, { type, tokens }) => sum + (type === "train" ? tokens : 0), 0);
}
