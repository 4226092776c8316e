// The mathematics of why, as commands: plan, check, the preflight inside train, spectrum, and a comparison that is
// interrupted and continued.

import { existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import {
  backendName,
  expectRefusal,
  lowrank,
  makeRows,
  scratchFolder,
  startLowrank,
  succeed,
  until,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
mkdirSync(join(folder, "model"));
const model = writeTinyModel(join(folder, "model"));
const rows = makeRows(40);
const data = writeRows(join(folder, "rows.jsonl"), rows.slice(0, 32));
const evalData = writeRows(join(folder, "eval.jsonl"), rows.slice(32));
const device = ["--backend", backendName, "--threads", "1", "--sequence-length", "64", "--batch-size", "4"];
const json = (text: string) => JSON.parse(text) as Record<string, never>;

it("plans and exports the base that comes with lowrank, without a flag more", () => {
  expect(json(succeed("plan", "--model", "tiny", "--json").stdout)).toMatchObject({ sequenceLength: 512 });
  const out = join(folder, "tiny.gguf");
  const { stderr } = succeed("export", "--model", "tiny", "--format", "gguf", "--out", out);
  expect(stderr).toContain("written as gpt-2, which gives the same tokens on ordinary text");
  expect(readFileSync(out).subarray(0, 4).toString()).toBe("GGUF");
});

it("plans a folder and prices a data file", () => {
  const words = [
    "plan",
    "--model",
    model,
    "--data",
    data,
    "--gpu",
    "t4",
    "--sequence-length",
    "64",
    "--json",
  ];
  const plan = json(succeed(...words).stdout) as unknown as {
    work: { tokens: number };
    methods: { name: string; variants: { peakBytes: number; fits: boolean }[] }[];
    estimates: Record<string, { cost: number }[]>;
  };
  expect(plan.work.tokens).toBeGreaterThan(32 * 10);
  expect(plan.methods.map(({ name }) => name)).toEqual(["full-fp32", "full-bf16", "lora", "qlora"]);
  expect(plan.methods.every(({ variants }) => variants.every(({ fits }) => fits))).toBe(true);
  expect(plan.estimates.lora![0]!.cost).toBeGreaterThan(0);
});

it("checks clean data and refuses evaluation rows that are trained on, alone and inside train", () => {
  const common = ["--model", model, "--data", data, ...device];
  const clean = json(succeed("check", ...common, "--eval-data", evalData, "--json").stdout) as unknown as {
    refused: unknown[];
    shown: unknown[];
    memory: { neededBytes: number };
  };
  expect(clean.refused).toEqual([]);
  expect(clean.shown).toHaveLength(5);
  expect(clean.memory.neededBytes).toBeGreaterThan(0);

  const checked = lowrank("check", ...common, "--eval-data", data);
  expect(checked.status).toBe(1);
  expect(checked.stdout).toContain("refused overlap");
  const train = ["train", ...common, "--eval-data", data, "--max-steps", "1"];
  expectRefusal(lowrank(...train, "--out", join(folder, "refused")), 1, [
    "preflight refuses this run",
    "--allow overlap",
  ]);
  succeed(...train, "--out", join(folder, "allowed"), "--allow", "overlap");
});

it("refuses a run that the device cannot hold, before it starts", () => {
  const words = ["train", "--model", model, "--data", data, ...device, "--vram", "100kB", "--max-steps", "1"];
  expectRefusal(lowrank(...words, "--out", join(folder, "large")), 1, ["--vram", "--allow memory"]);
});

it("predicts the peak that train then has", () => {
  const out = join(folder, "predicted");
  const words = ["--model", model, "--data", data, ...device, "--gradient-checkpointing", "off"];
  const { memory } = json(succeed("check", ...words, "--json").stdout) as unknown as {
    memory: { neededBytes: number };
  };
  succeed("train", ...words, "--out", out, "--max-steps", "8");
  const { peakBytes } = json(readFileSync(join(out, "run.json"), "utf8")) as unknown as {
    peakBytes: number;
  };
  // The longest batch of real rows is somewhat shorter than four of the longest row.
  expect(peakBytes).toBeLessThanOrEqual(memory.neededBytes);
  expect(peakBytes).toBeGreaterThan(0.7 * memory.neededBytes);
});

it("finds the spectrum of a full run and of an adapter", () => {
  const out = join(folder, "full");
  const words = ["--data", data, ...device, "--max-steps", "2", "--learning-rate", "0.01"];
  succeed("train", "--model", model, ...words, "--out", out, "--method", "full");
  const spectrum = json(succeed("spectrum", "--base", model, "--tuned", out, "--json").stdout) as unknown as {
    modules: { name: string; singularValues: number[] }[];
    proposal: { r: number };
  };
  expect(spectrum.modules.length).toBeGreaterThan(14);
  expect(spectrum.proposal.r).toBeGreaterThan(0);
  const adapter = succeed("spectrum", "--adapter", join(folder, "allowed"));
  expect(adapter.stdout).toContain('"rank_pattern"');
  expectRefusal(lowrank("spectrum", "--base", model), 2, ["--tuned"]);
});

it("compares methods, interrupted and continued, with --keep", async () => {
  const out = join(folder, "compare");
  const words = [
    ...["compare", "--model", model, "--data", data, "--eval-data", evalData, "--out", out, ...device],
    ...["--max-steps", "60", "--grid-runs", "2", "--methods", "full,lora", "--ranks", "4"],
    ...["--metrics", "perplexity,bleu", "--max-new-tokens", "4", "--keep", "50", "--max-runs", "5", "--json"],
  ];
  const { child, finished } = startLowrank(words);
  const runs = join(out, "runs");
  await until(() => existsSync(runs), finished);
  child.kill("SIGINT");
  const first = await finished;
  expect(first.status, first.stderr).toBe(130);
  const again = succeed(...words);
  const comparison = json(again.stdout) as unknown as {
    status: string;
    rows: { name: string; kept: { percent: number }; scores: Record<string, number> }[];
    keep: { found?: string };
  };
  expect(comparison.status).toBe("done");
  expect(comparison.rows.slice(0, 3).map(({ name }) => name)).toEqual(["base", "full", "lora-r4"]);
  expect(comparison.rows[1]!.kept.percent).toBe(100);
  expect(comparison.keep.found).toMatch(/^lora-r\d+$/);
  for (const name of ["compare.json", "compare.md", "loss-curves.svg", "quality-memory.svg"])
    expect(statSync(join(out, name)).size).toBeGreaterThan(100);
  // A third call trains nothing: every run is taken from its folder.
  const third = succeed(...words);
  expect(json(third.stdout)).toEqual(comparison);
});
