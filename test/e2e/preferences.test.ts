// Runs of objectives on preferences by the real command: killed and resumed to the same bytes, the same bytes on several
// ranks, in 4 bits and in full, from a given adapter; what is refused; what check and plan say of them.

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import {
  backendName,
  expectRefusal,
  filesOf,
  lowrank,
  lowrankMain,
  scratchFolder,
  startLowrank,
  succeed,
  summaryIn,
  until,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const words = "red blue green small large round old new quick slow".split(" ");
const pairRows = Array.from({ length: 40 }, (_, i) => ({
  prompt: `${i} ${words[i % words.length]}: `,
  chosen: `${"yes ".repeat(1 + (i % 3))}${words[(i * 3) % words.length]}`,
  rejected: `no${"!".repeat(i % 4)}`,
}));
const pairs = writeRows(join(folder, "pairs.jsonl"), pairRows);
const ratedRows = Array.from({ length: 40 }, (_, i) => ({
  prompt: `${i} ${words[i % words.length]}: `,
  completion: i % 3 ? `yes ${words[(i * 7) % words.length]}` : `no${"!".repeat(i % 4)}`,
  label: i % 3 !== 0,
}));
const rated = writeRows(join(folder, "rated.jsonl"), ratedRows);
const steps = 24;

const trainArgs = (out: string, more: readonly string[], data = pairs) => [
  ...["train", "--model", model, "--data", data, "--out", join(folder, out), "--backend", backendName],
  ...["--rank", "4", "--no-timing", "--learning-rate", "1e-3", "--save-every", "2", ...more],
];

const courses: Record<string, { readonly args: string; readonly data?: string }> = {
  dpo: { args: "--objective dpo --dropout 0.1 --gradient-accumulation 2 --eval-fraction 0.2 --eval-every 5" },
  ipo: { args: "--objective dpo --loss-type ipo --packing --sequence-length 64 --batch-size 2" },
  orpo: { args: "--objective orpo --gradient-checkpointing on" },
  simpo: { args: "--objective simpo --beta 2 --gamma 1 --method qlora" },
  cpo: { args: "--objective cpo --method full --learning-rate 1e-4" },
  kto: {
    args: "--objective kto --gradient-accumulation 2 --batch-size 4 --undesirable-weight 0.8 --eval-fraction 0.2",
    data: rated,
  },
  "full dpo": { args: "--objective dpo --method full --learning-rate 1e-4" },
};

/** What equal runs share byte for byte. */
const resultOf = (out: string) =>
  filesOf(out, [
    "metrics.jsonl",
    existsSync(join(out, "model.safetensors")) ? "model.safetensors" : "adapter_model.safetensors",
  ]);
const linesOf = (path: string) =>
  existsSync(path) ? readFileSync(path, "utf8").split('"type":"train"').length - 1 : 0;
const course = (name: string, out: string) => {
  const { args, data } = courses[name]!;
  const own = args.split(" ");
  const rate = own.includes("--learning-rate") ? own.splice(own.indexOf("--learning-rate"), 2) : [];
  const all = trainArgs(out, [...own, "--max-steps", String(steps)], data);
  if (rate.length > 0) all[all.indexOf("--learning-rate") + 1] = rate[1]!;
  return all;
};

for (const name of Object.keys(courses)) {
  it(`killed and resumed: ${name}`, async () => {
    succeed(...course(name, `${name} whole`));
    const expected = resultOf(join(folder, `${name} whole`));
    const args = course(name, `${name} killed`);
    const metrics = join(folder, `${name} killed`, "metrics.jsonl");
    const { child, finished } = startLowrank(args);
    await until(() => linesOf(metrics) >= 5, finished);
    child.kill("SIGKILL");
    const { signal, stderr } = await finished;
    expect(signal, `a run ended before it was killed: ${stderr}`).toBe("SIGKILL");
    succeed(...args, "--resume");
    expect(resultOf(join(folder, `${name} killed`))).toEqual(expected);
  });
}

const installed = spawnSync("mpirun.openmpi", ["--version"]).status === 0;
it.runIf(installed).each(["dpo", "kto"])("the same bytes on three ranks: %s", (name) => {
  const args = course(name, `${name} ranks`).map((word) => (word === "reference" ? "cpu" : word));
  const launch = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "3"];
  const run = spawnSync("mpirun.openmpi", [...launch, process.execPath, lowrankMain, ...args], {
    encoding: "utf8",
    env: { ...process.env, OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" },
  });
  expect(run.status, run.stderr).toBe(0);
  expect(resultOf(join(folder, `${name} ranks`))).toEqual(resultOf(join(folder, `${name} whole`)));
});

const metricsOf = (out: string) =>
  readFileSync(join(folder, out, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, number | string>);

it("tells rewards of steps and of evaluations, and no perplexity", () => {
  const lines = metricsOf("dpo whole");
  for (const line of lines) {
    for (const key of ["loss", "rewardsChosen", "rewardsRejected", "rewardAccuracy", "rewardMargin"])
      expect(line[key], key).toBeTypeOf("number");
    expect(line).not.toHaveProperty("perplexity");
    const margin = (line.rewardsChosen as number) - (line.rewardsRejected as number);
    expect(Math.abs(margin - (line.rewardMargin as number))).toBeLessThan(1e-9);
  }
  expect(Math.abs((lines[0]!.loss as number) - Math.LN2)).toBeLessThan(1e-4);
  expect(lines.some(({ type }) => type === "eval")).toBe(true);
  expect(lines.at(-1)!.rewardMargin).toBeGreaterThan(0.05);
});

it("a given adapter's reference is the base, or itself", () => {
  const first = (out: string, more: string[]) => {
    const given = ["--objective", "dpo", "--max-steps", "1", "--init-adapter", join(folder, "dpo whole")];
    const args = trainArgs(out, [...given, ...more]);
    args.splice(args.indexOf("--rank"), 2);
    succeed(...args);
    return metricsOf(out)[0]!;
  };
  expect(Math.abs(first("from start", ["--reference", "start"]).rewardMargin as number)).toBeLessThan(1e-4);
  expect(Math.abs(first("from base", []).rewardMargin as number)).toBeGreaterThan(1e-2);
});

it.each([
  [
    "rows of answers",
    ["--objective", "dpo"],
    1,
    ["line 1", "expected", '"chosen", "rejected"', "completion"],
    rated,
  ],
  ["an unknown rating", ["--objective", "kto"], 1, ["line 2", '"label" must be true', '"good"'], "bad"],
  ["pairs without an objective", [], 1, ["--objective dpo"], pairs],
  ["another's option", ["--objective", "dpo", "--gamma", "1"], 2, ["--gamma", "simpo"], pairs],
  [
    "another's loss",
    ["--objective", "cpo", "--loss-type", "robust"],
    2,
    ["robust", "sigmoid, hinge, ipo"],
    pairs,
  ],
  ["smoothing of ipo", "--objective dpo --loss-type ipo --label-smoothing 0.1".split(" "), 2, ["ipo"], pairs],
  ["a rating by itself", ["--objective", "kto", "--batch-size", "1"], 2, ["at least 2"], rated],
  ["what is learnt", ["--objective", "dpo", "--train-on", "all"], 2, ["--train-on"], pairs],
  ["a reference of no adapter", ["--objective", "dpo", "--reference", "start"], 2, ["--init-adapter"], pairs],
] as const)("refuses %s", (name, more, code, parts, data) => {
  const bad = join(folder, "bad.jsonl");
  writeRows(bad, [ratedRows[0], { ...ratedRows[1], label: "good" }]);
  const args = trainArgs(`refused ${name}`, ["--max-steps", "1", ...more], data === "bad" ? bad : data);
  expectRefusal(lowrank(...args), code, parts);
});

it("check shows a pair's tokens once, and predicts its memory", () => {
  const args = [
    "check",
    "--model",
    model,
    "--data",
    pairs,
    "--objective",
    "dpo",
    "--backend",
    backendName,
    "--json",
  ];
  const report = JSON.parse(succeed(...args).stdout);
  expect(report.format).toBe("preference-pairs");
  const text = report.shown[0].tokens.map((token: { text: string }) => token.text).join("");
  expect(text).toBe("<s>0 red: yes red</s>no</s>");
  const learnt = report.shown[0].tokens.filter((token: { target: boolean }) => token.target);
  expect(learnt.map((token: { text: string }) => token.text).join("")).toBe("yes red</s>no</s>");
  const sft = [
    "--data",
    writeRows(
      join(folder, "sft.jsonl"),
      pairRows.map(({ prompt, chosen }) => ({ prompt, completion: chosen })),
    ),
  ];
  const alone = JSON.parse(
    succeed("check", "--model", model, ...sft, "--backend", backendName, "--json").stdout,
  );
  expect(report.memory.neededBytes).toBeGreaterThan(alone.memory.neededBytes);
});

it.runIf(backendName === "cpu")("predicts the memory that a run takes", () => {
  const out = "predicted";
  const json = succeed(
    ...trainArgs(out, ["--objective", "dpo", "--max-steps", "3", "--precision", "fp32", "--json"]),
  ).stdout;
  const { peakBytes } = summaryIn(json) as { peakBytes?: number };
  const args = [
    "check",
    "--model",
    model,
    "--data",
    pairs,
    "--objective",
    "dpo",
    "--rank",
    "4",
    "--backend",
    "cpu",
    "--precision",
    "fp32",
    "--json",
  ];
  const { memory } = JSON.parse(succeed(...args).stdout);
  expect(peakBytes).toBeLessThanOrEqual(memory.neededBytes);
  expect(peakBytes).toBeGreaterThan(0.6 * memory.neededBytes);
});
