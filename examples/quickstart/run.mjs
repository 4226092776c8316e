// The quickstart: makes the data, asks the tiny base before training, tunes a LoRA adapter on it, asks again.
// It only calls the lowrank command, as anyone would; settings stand in quickstart.yaml. Data and adapter come into
// runs/quickstart of the folder that it is called in, so the installed package may be one that nobody writes to.
// Flags after `npm run quickstart --` go to train (say --method qlora or --max-steps 100); those that choose
// the model and the device go to every command.

import { spawnSync } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const cli = join(root, "dist", "cli", "main.js");
const defaultOut = "runs/quickstart/adapter";
const testData = "runs/quickstart/data/test.jsonl";
/** The longest answer has about 30 tokens. */
const ANSWER_TOKENS = ["--max-new-tokens", "40"];
/** Flags that mean the same to train, generate and eval. */
const SHARED_FLAGS = ["--model", "--backend", "--precision", "--threads"];

const extra = process.argv.slice(2);
const started = performance.now();

if (!existsSync(cli)) {
  console.error("lowrank is not built yet: run `npm install` or `npm run build` first.");
  process.exit(1);
}
const { writeQuickstartData } = await import("./make-data.mjs");

say("1. Data: short stories, each with a record of who, where and what");
const { train, test } = writeQuickstartData("runs/quickstart/data");
console.log(
  `   ${train.length} rows to learn from, ${test.length} held out to test with, in runs/quickstart/data`,
);

const out = extraValue("--out") ?? defaultOut;
const shared = ["--model", extraValue("--model") ?? "tiny", ...sharedFlags()];
const example = test[0];

say("2. Before training");
showExample(shared);
const before = exactMatch(shared);

say("3. Training");
if (out === defaultOut && !extra.includes("--resume")) rmSync(out, { recursive: true, force: true });
const training = performance.now();
lowrank(["train", join(here, "quickstart.yaml"), ...extra], "inherit");
const trainingSeconds = (performance.now() - training) / 1000;

say("4. After training");
const isAdapter = existsSync(join(out, "adapter_config.json"));
const tuned = isAdapter ? [...shared, "--adapter", out] : ["--model", out, ...sharedFlags()];
showExample(tuned);
const after = exactMatch(tuned);

say("Result");
console.log(
  `   exact match on ${test.length} held-out stories: ${percent(before)} before, ${percent(after)} after`,
);
console.log(`   ${trainingSeconds.toFixed(0)} s of training, ${secondsSince(started)} s in all`);
console.log(`   ${isAdapter ? "the adapter" : "the tuned model"} lies in ${out}`);
const choice = tuned.join(" ");
console.log(`
Next:
   npx lowrank generate ${choice} --prompt $'Mia has a blue hat. Tom found a red ball at the park.\\nWho, where, what?\\n'
   npx lowrank eval ${choice} --data ${testData} --metrics exact-match,rouge`);
if (isAdapter) console.log(`   npx lowrank merge ${choice} --out runs/quickstart/merged`);

/** Runs one lowrank command and ends this script with its exit code if it fails. */
function lowrank(args, stdout = "pipe") {
  const options = { stdio: ["inherit", stdout, "inherit"], encoding: "utf8", maxBuffer: 2 ** 26 };
  const run = spawnSync(process.execPath, [cli, ...args], options);
  if (run.error !== undefined) throw run.error;
  if (run.status !== 0) {
    console.error(`\`lowrank ${args[0]}\` ended with code ${run.status}; the quickstart stops here.`);
    process.exit(run.status ?? 1);
  }
  return run.stdout;
}

function showExample(modelFlags) {
  const flags = [...ANSWER_TOKENS, "--temperature", "0", "--json"];
  const answer = JSON.parse(lowrank(["generate", ...modelFlags, "--prompt", example.prompt, ...flags]));
  console.log(indent(example.prompt.trimEnd()));
  console.log(`   model:    ${answer.text.trim().replace(/\s*\n\s*/g, " / ")}`);
  console.log(`   expected: ${example.completion}`);
}

/** Share of held-out rows answered exactly, from 0 to 1. */
function exactMatch(modelFlags) {
  const flags = ["--data", testData, "--metrics", "exact-match", ...ANSWER_TOKENS, "--json"];
  const { exactMatch: share } = JSON.parse(lowrank(["eval", ...modelFlags, ...flags]));
  console.log(`   exact match on ${test.length} held-out stories: ${percent(share)}`);
  return share;
}

/** The value of a flag among the extra ones, written `--flag value` or `--flag=value`. */
function extraValue(flag) {
  const at = extra.findIndex((argument) => argument === flag || argument.startsWith(`${flag}=`));
  if (at < 0) return undefined;
  return extra[at] === flag ? extra[at + 1] : extra[at].slice(flag.length + 1);
}

/** The extra flags that every command takes, less the model. */
function sharedFlags() {
  return SHARED_FLAGS.slice(1).flatMap((flag) => {
    const value = extraValue(flag);
    return value === undefined ? [] : [flag, value];
  });
}

function say(title) {
  console.log(`\n${title}`);
}

function indent(text) {
  return text.replace(/^/gm, "   ");
}

function percent(share) {
  return `${(100 * share).toFixed(0)}%`;
}

function secondsSince(start) {
  return ((performance.now() - start) / 1000).toFixed(0);
}
