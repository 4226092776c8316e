// GRPO on the tiny base: the model writes answers, record.mjs judges them, and what earned more becomes likelier. No answer is
// ever shown to it: a few steps of the quickstart's training only let it come upon a record now and then. With --bare there
// are no such steps, and json-line.mjs judges. It only calls the lowrank command; flags after the first ones go to train.
// Usage: node examples/grpo/run.mjs [--bare] [--max-steps 40 ...]   (after npm run build), into runs/grpo of this folder

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeQuickstartData } from "../quickstart/make-data.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const cli = join(root, "dist", "cli", "main.js");
const given = process.argv.slice(2);
const bare = given[0] === "--bare";
const more = bare ? given.slice(1) : given;
const at = more.indexOf("--runs");
const runs = at < 0 ? join("runs", "grpo") : more.splice(at, 2)[1];

if (!existsSync(cli)) {
  console.error("lowrank is not built yet: run `npm install` or `npm run build` first.");
  process.exit(1);
}
rmSync(runs, { recursive: true, force: true });
writeQuickstartData(join(runs, "data"));
const data = ["--model", "tiny", "--data", join(runs, "data", "train.jsonl")];
const [warm, out] = [join(runs, "warm"), join(runs, "adapter")];
if (!bare) {
  console.log("A few steps on answers, so that a record comes up now and then");
  const steps = "--batch-size 16 --sequence-length 128 --max-steps 22 --warmup-steps 2".split(" ");
  lowrank(["train", ...data, "--out", warm, ...steps, "--learning-rate", "3e-3", "--seed", "1"]);
}
console.log("GRPO: answers of its own, judged by a reward");
const settings =
  "--objective grpo --max-new-tokens 48 --sequence-length 256 --batch-size 8 --learning-rate 1e-3 --schedule constant";
const own = bare
  ? ["--reward", join(here, "json-line.mjs"), "--group-size", "16", "--max-steps", "60"]
  : ["--reward", join(here, "record.mjs"), "--init-adapter", warm, "--max-steps", "50"];
lowrank(["train", ...data, "--out", out, ...settings.split(" "), ...own, ...more]);

const rewards = readFileSync(join(out, "metrics.jsonl"), "utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line).reward)
  .filter((reward) => reward !== undefined);
const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;
console.log(
  `reward: ${percent(mean(rewards.slice(0, 3)))} in the first three rounds, ${percent(mean(rewards.slice(-5)))} in the last five`,
);

function lowrank(args) {
  const run = spawnSync(process.execPath, [cli, ...args], { stdio: ["ignore", "ignore", "inherit"] });
  if (run.status !== 0) process.exit(run.status ?? 1);
}

function percent(share) {
  return `${Math.round(100 * share)}%`;
}
