// Rows of runs of other objectives as the page shows them: a pair is two texts, each with its losses, a rated completion
// says whether it is wanted, and of prompts nothing is learnt.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import type { RowsView } from "../../src/ui/api.ts";
import { viewRows } from "../../src/ui/view-rows.ts";
import { backendName, makeRows, scratchFolder, succeed, writeRows, writeTinyModel } from "../e2e/lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const rows = makeRows(8);

async function rowsOf(objective: string, given: readonly unknown[], ...more: string[]): Promise<RowsView> {
  const data = writeRows(join(folder, `${objective}.jsonl`), given);
  const out = join(folder, objective);
  succeed(
    ...["train", "--model", model, "--data", data, "--out", out, "--objective", objective, "--threads", "1"],
    ...["--backend", backendName, "--max-steps", "4", "--batch-size", "2", "--rank", "2", ...more],
  );
  const { options } = JSON.parse(readFileSync(join(out, "run.json"), "utf8"));
  return viewRows({ folder: out, options, done: true, step: 4, set: "train", from: 1, count: 2 });
}

const learnt = ({ tokens }: RowsView["rows"][number]) => {
  const targets = tokens.filter(({ target }) => target);
  for (const { before, after } of targets)
    expect([before, after].every((loss) => loss! > 0 && Number.isFinite(loss))).toBe(true);
  return targets.map(({ text }) => text).join("");
};
const whole = ({ tokens }: RowsView["rows"][number]) => tokens.map(({ text }) => text).join("");

it("a pair is its prompt with each completion", async () => {
  const pairs = rows.map(({ prompt, completion }) => ({ prompt, chosen: completion, rejected: " no" }));
  const view = await rowsOf("dpo", pairs);
  expect(view).toMatchObject({ from: 1, count: 2, total: 8 });
  expect(view.rows.map(({ label, part }) => `${label} ${part}`)).toEqual([
    "dpo.jsonl line 2 chosen",
    "dpo.jsonl line 2 rejected",
    "dpo.jsonl line 3 chosen",
    "dpo.jsonl line 3 rejected",
  ]);
  for (const [i, row] of [rows[1]!, rows[2]!].entries()) {
    expect(learnt(view.rows[2 * i]!)).toContain(row.completion);
    expect(learnt(view.rows[2 * i + 1]!)).toContain(" no");
    expect(whole(view.rows[2 * i + 1]!)).toContain(`${row.prompt} no`);
    expect(whole(view.rows[2 * i + 1]!)).not.toContain(row.completion);
  }
});

it("a rated completion says whether it is wanted", async () => {
  const view = await rowsOf(
    "kto",
    rows.map((row, i) => ({ ...row, label: i % 2 === 0 })),
  );
  expect(view.rows.map(({ part }) => part)).toEqual(["unwanted", "wanted"]);
  expect(learnt(view.rows[0]!)).toContain(rows[1]!.completion);
});

it("a prompt that the model answers itself has no losses", async () => {
  const reward = join(folder, "reward.mjs");
  writeFileSync(reward, "export default (_prompt, completion) => completion.length;\n");
  const flags = ["--reward", reward, "--group-size", "2", "--max-new-tokens", "4"];
  const view = await rowsOf(
    "grpo",
    rows.map(({ prompt }) => ({ prompt })),
    ...flags,
  );
  expect(view.rows).toHaveLength(2);
  for (const row of view.rows) {
    expect(row.tokens.length).toBeGreaterThan(0);
    expect(row.tokens.every((token) => !token.target && !("before" in token))).toBe(true);
    expect(row).not.toHaveProperty("part");
  }
});
