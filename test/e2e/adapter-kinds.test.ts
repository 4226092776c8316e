// Runs of every kind and beginning of an adapter go on from a checkpoint as if never stopped, and their results are merged,
// exported and refused by name where a format has no place for them.

import { readFileSync } from "node:fs";
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
const data = writeRows(join(folder, "rows.jsonl"), makeRows(16));

const runs: Record<string, string[]> = {
  dora: ["--adapter", "dora", "--dropout", "0.2", "--lora-plus-ratio", "4"],
  "dora over 4 bits": ["--adapter", "dora", "--method", "qlora", "--optimizer", "adamw8bit"],
  pissa: ["--init", "pissa", "--optimizer", "lion"],
  "pissa over 4 bits": ["--init", "pissa", "--method", "qlora", "--lora-plus-ratio", "4"],
  "paged groups": ["--lora-plus-ratio", "8", "--paged", "--paged-budget", "1"],
  "whole modules": ["--modules-to-save", "lm_head,norm", "--layers", "0", "--exclude", "v"],
};

it.each(Object.entries(runs))("%s: resumed as in one go", (name, flags) => {
  const train = (out: string, steps: number, ...more: string[]) =>
    succeed(
      ...["train", "--model", model, "--data", data, "--out", join(folder, out), "--backend", "cpu"],
      ...["--schedule", "constant", "--learning-rate", "0.01", "--batch-size", "2", ...flags],
      ...["--max-steps", String(steps), ...more],
    );
  const weights = (out: string) => readFileSync(join(folder, out, "adapter_model.safetensors"));
  train(name, 4);
  train(`${name} parted`, 2);
  train(`${name} parted`, 4, "--resume");
  expect(weights(`${name} parted`).equals(weights(name))).toBe(true);
});

it("writes a DoRA adapter as a merged GGUF, and refuses it alone", () => {
  const adapter = join(folder, "dora");
  const out = join(folder, "dora.gguf");
  succeed("export", "--model", model, "--adapter", adapter, "--out", out);
  const alone = lowrank("export", "--model", model, "--adapter", adapter, "--adapter-only", "--out", out);
  expectRefusal(alone, 1, ["it scales each row of the weights (DoRA), which a GGUF adapter cannot express"]);
});
