// Rows of a comparison: kinds of adapters and how they begin, several seeds, errors beside every score, and whether rows
// differ at all. The real command, with rates given, so that every row is one run a seed.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import {
  expectRefusal,
  lowrank,
  makeRows,
  scratchFolder,
  succeed,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(30));
const evalData = writeRows(join(folder, "eval.jsonl"), makeRows(40).slice(30));

const args = (out: string, ...more: readonly string[]) => [
  ...["compare", "--model", model, "--data", data, "--eval-data", evalData, "--out", join(folder, out)],
  ...["--max-steps", "6", "--learning-rates", "1e-3", "--full-learning-rates", "1e-3", "--json", ...more],
];

interface Row {
  name: string;
  scores: Record<string, number>;
  standardErrors: Record<string, number>;
  seeds?: { seed: number; scores: Record<string, number> }[];
  difference?: { against: string; verdict: string; p: number; test: string };
  kept?: { percent: number; standardError: number };
}

it("takes kinds of adapters and beginnings as rows, each with all seeds", () => {
  const more = [
    "--methods",
    "full,lora",
    "--adapters",
    "lora,dora",
    "--inits",
    "default,pissa",
    "--seeds",
    "0,3",
  ];
  const { stdout, stderr } = succeed(...args("rows", ...more));
  expect(stderr).toContain("left out, because they do not go together: dora with pissa");
  const { rows, seeds } = JSON.parse(stdout) as { rows: Row[]; seeds: number[] };
  expect(seeds).toEqual([0, 3]);
  expect(rows.map(({ name }) => name)).toEqual(["base", "full", "lora-r8", "lora-pissa-r8", "lora-dora-r8"]);
  expect(readdirSync(join(folder, "rows", "runs"))).toHaveLength(8);
  for (const row of rows.slice(1)) {
    expect(row.seeds!.map(({ seed }) => seed)).toEqual([0, 3]);
    const [one, other] = row.seeds!.map(({ scores }) => scores.perplexity!);
    expect(one).not.toBe(other);
    expect(row.scores.perplexity).toBeCloseTo((one! + other!) / 2, 9);
    // Of the seeds' difference alone it is at least half of that.
    expect(row.standardErrors.perplexity).toBeGreaterThanOrEqual(Math.abs(one! - other!) / 2 - 1e-9);
    expect(row.kept!.standardError).toBeGreaterThanOrEqual(0);
  }
  expect(rows[1]!.difference).toBeUndefined();
  for (const row of [rows[0]!, ...rows.slice(2)]) {
    expect(row.difference!.against).toBe("full");
    expect(["better", "worse", "no difference"]).toContain(row.difference!.verdict);
    expect(row.difference!.test).toMatch(/paired over 10 rows and 2 seeds/);
  }
  const markdown = readFileSync(join(folder, "rows", "compare.md"), "utf8");
  expect(markdown).toContain("means over seeds 0, 3");
  expect(markdown).toMatch(/perplexity against full/);
  expect(markdown).toMatch(/ ± /);
});

it("takes objectives as rows, at the rates of their own", () => {
  const pairs = makeRows(24).map(({ prompt, completion }) => ({
    prompt,
    chosen: completion,
    rejected: " no",
  }));
  const data = writeRows(join(folder, "pairs.jsonl"), pairs);
  const more = ["--data", data, "--methods", "lora", "--objectives", "dpo,orpo", "--max-steps", "3"];
  const { rows } = JSON.parse(succeed(...args("objectives", ...more)).stdout) as { rows: Row[] };
  expect(rows.map(({ name }) => name)).toEqual(["base", "lora-dpo-r8", "lora-orpo-r8"]);
  expect(rows[1]!.scores.perplexity).not.toBe(rows[2]!.scores.perplexity);
});

it("says no difference of runs that are one and the same", () => {
  const { stdout } = succeed(
    ...args("same", "--methods", "lora", "--ranks", "4,8", "--learning-rates", "1e-9"),
  );
  const { rows } = JSON.parse(stdout) as { rows: Row[] };
  expect(rows.map(({ name }) => name)).toEqual(["base", "lora-r4", "lora-r8"]);
  expect(rows[2]!.difference).toMatchObject({ against: "lora-r4", verdict: "no difference" });
  expect(readFileSync(join(folder, "same", "compare.md"), "utf8")).toContain("no difference");
});

it("refuses what does not go together before anything is trained", () => {
  expectRefusal(lowrank(...args("bad", "--adapters", "dora", "--inits", "pissa")), 1, [
    /leave nothing to compare/,
  ]);
  expectRefusal(lowrank(...args("bad", "--seeds", "1,1")), 2, ["--seeds names a seed twice"]);
  expectRefusal(lowrank(...args("bad", "--seed", "1", "--seeds", "1,2")), 2, ["exclude each other"]);
  expectRefusal(lowrank(...args("bad", "--adapters", "lora,dora", "--keep", "97")), 2, [
    "--keep searches ranks",
  ]);
});
