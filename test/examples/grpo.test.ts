// The GRPO example, with fewer steps: what a person can see of the reward rises on the tiny base.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, it } from "vitest";

const script = fileURLToPath(new URL("../../examples/grpo/run.mjs", import.meta.url));
const runs = join(mkdtempSync(join(tmpdir(), "lowrank-example-")), "runs");
afterAll(() => rmSync(join(runs, ".."), { recursive: true, force: true }));

it("raises the share of valid records", () => {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [script, "--runs", runs, "--max-steps", "18", "--max-new-tokens", "32"],
    { encoding: "utf8" },
  );
  expect(status, stderr).toBe(0);
  const rewards = readFileSync(join(runs, "adapter", "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { reward: number }).reward);
  expect(rewards).toHaveLength(18);
  const mean = (list: number[]) => list.reduce((sum, value) => sum + value, 0) / list.length;
  expect(mean(rewards.slice(-4))).toBeGreaterThan(mean(rewards.slice(0, 3)) + 0.2);
  expect(stdout).toMatch(/reward: \d+% in the first three rounds, \d+% in the last five/);
});
