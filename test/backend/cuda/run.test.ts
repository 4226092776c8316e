// A whole run through the command on the CUDA backend's emulator: what it leaves, resumed to the same bytes, and gone on with on
// another backend; a card that is too small refuses before the first step.

import { cpSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import "../../conformance/backends.ts";
import {
  expectRefusal,
  lowrank,
  makeRows,
  resultOf,
  scratchFolder,
  succeed,
  writeRows,
  writeTinyModel,
} from "../../e2e/lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(12));

const train = (out: string, ...more: string[]) => [
  ...["train", "--model", model, "--data", data, "--out", join(folder, out), "--backend", "cuda"],
  ...[
    "--rank",
    "4",
    "--dropout",
    "0.1",
    "--batch-size",
    "2",
    "--learning-rate",
    "5e-3",
    "--schedule",
    "constant",
  ],
  ...["--save-every", "2", "--no-timing", ...more],
];

it("resumes to the bytes of a run in one go, and goes on elsewhere", () => {
  succeed(...train("whole", "--max-steps", "4"));
  succeed(...train("halved", "--max-steps", "2"));
  cpSync(join(folder, "halved"), join(folder, "elsewhere"), { recursive: true });
  succeed(...train("halved", "--max-steps", "4", "--resume"));
  expect(resultOf(join(folder, "halved"))).toEqual(resultOf(join(folder, "whole")));
  const record = JSON.parse(readFileSync(join(folder, "whole", "run.json"), "utf8"));
  expect(record).toMatchObject({ backend: "cuda", precision: "bf16" });
  expect(record.deviceBytes).toBeGreaterThanOrEqual(record.peakBytes);

  const words = train("elsewhere", "--max-steps", "4", "--resume");
  words[words.indexOf("cuda")] = "reference";
  words.push("--precision", "fp32");
  succeed(...words);
  const losses = (out: string) =>
    readFileSync(join(folder, out, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { loss?: number })
      .flatMap(({ loss }) => loss ?? []);
  const [here, there] = [losses("whole"), losses("elsewhere")];
  expect(there).toHaveLength(here.length);
  for (const [i, loss] of there.entries()) expect(Math.abs(loss - here[i]!)).toBeLessThan(0.05);
  rmSync(join(folder, "elsewhere"), { recursive: true });
});

it("a card that is too small refuses the run before it begins", () => {
  process.env.LOWRANK_EMULATED_MEMORY = `${3 * 2 ** 20}`;
  try {
    const refused = lowrank(
      ...train("small", "--max-steps", "2", "--batch-size", "64", "--sequence-length", "256"),
      // Recomputed it would fit.
      ...["--gradient-checkpointing", "off"],
    );
    expectRefusal(refused, 1, [/the run will need .* \(free on the card\)/]);
  } finally {
    delete process.env.LOWRANK_EMULATED_MEMORY;
  }
});
