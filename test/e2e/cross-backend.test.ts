// A run that is killed on one backend and resumed on another goes on as the same run: checkpoints hold numbers, not a
// device's layout of them. Losses equal an uninterrupted run's within the rounding of two devices; what is shared by
// construction (which rows, how many tokens, the learning rate) is equal.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { findAdapter, webgpu } from "../../src/backend/webgpu.ts";
import {
  backendName,
  makeRows,
  scratchFolder,
  startLowrank,
  succeed,
  until,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const skip = (await findAdapter()) ? "" : webgpu.reason!();
if (skip && process.env.LOWRANK_REQUIRE_WEBGPU === "1") throw new Error(skip);

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(50));
const steps = 60;
/** Kills come at the first checkpoint; the rest of the steps must leave time for them. */
const saveEvery = 10;
// Relative. Sums in another order differ by 1e-7; AdamW's quotient of small moments enlarges that over the steps.
const lossTolerance = 1e-4;
/** Software adapters compile every shader anew where nothing is cached. */
const timeoutMs = 400_000;

const train = (out: string, backend: string, more: readonly string[]) => [
  ...["train", "--model", model, "--data", data, "--out", out, "--backend", backend, "--precision", "fp32"],
  ...["--max-steps", String(steps), "--save-every", String(saveEvery), "--batch-size", "2", "--no-timing"],
  ...["--warmup-steps", "5", ...more],
];

interface Line {
  readonly step: number;
  readonly loss: number;
  readonly gradNorm: number;
}

const text = (out: string) => {
  try {
    return readFileSync(join(out, "metrics.jsonl"), "utf8");
  } catch {
    return "";
  }
};
const linesOf = (out: string): Line[] =>
  text(out)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);

/** What must not depend on the device. */
const plan = ({ loss: _, gradNorm: __, ...rest }: Line) => rest;

async function killedAfterCheckpoint(args: readonly string[], out: string): Promise<void> {
  const { child, finished } = startLowrank(args);
  await until(() => text(out).split("\n").length > saveEvery + 2, finished);
  child.kill("SIGKILL");
  const { signal, stderr } = await finished;
  expect(signal, stderr).toBe("SIGKILL");
}

const methods: Record<string, string[]> = {
  lora: [..."--method lora --rank 4 --dropout 0.1 --learning-rate 5e-3".split(" ")],
  qlora: [..."--method qlora --rank 4 --dropout 0.1 --learning-rate 5e-3".split(" ")],
  // Whose embeddings are large enough for moments in 8 bits; the adapters are not.
  full: ["--method", "full", "--optimizer", "adamw8bit", "--learning-rate", "1e-3"],
};

describe.skipIf(skip)(`killed and resumed on the other backend${skip ? ` (skipped: ${skip})` : ""}`, () => {
  describe.each(Object.entries(methods))("%s", (name, more) => {
    it.each([
      [backendName, "webgpu"],
      ["webgpu", backendName],
    ])(
      "%s, then %s",
      async (first, second) => {
        const whole = join(folder, `${name} whole on ${first}`);
        succeed(...train(whole, first, more));
        const out = join(folder, `${name} from ${first}`);
        await killedAfterCheckpoint(train(out, first, more), out);
        const resumed = succeed(...train(out, second, more), "--resume");
        expect(resumed.stderr + resumed.stdout).toContain("continuing from");
        const state = readFileSync(join(out, "checkpoints", `step-${steps}`, "optimizer.safetensors"));
        expect(state.includes("mCodes")).toBe(more.includes("adamw8bit"));
        const [actual, expected] = [linesOf(out), linesOf(whole)];
        expect(actual.map(plan)).toEqual(expected.map(plan));
        const differences = expected.map(({ loss }, i) => Math.abs(actual[i]!.loss - loss) / loss);
        expect(Math.max(...differences)).toBeLessThan(lossTolerance);
      },
      timeoutMs,
    );
  });
});
