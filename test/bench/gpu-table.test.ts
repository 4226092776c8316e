// The table of a run on a card: failures and what did not run first, ratios beside what was asked for.

import { expect, it } from "vitest";
import { tableOf } from "../../bench/gpu/table.mjs";

const steps = (name: string, medianMs: number, more: object = {}) => [
  {
    stepsMs: [medianMs + 1, medianMs, medianMs - 1],
    deviceBytes: 5.3e9,
    predictedDeviceBytes: 5.28e9,
    ...more,
  },
  { part: name, code: 0, seconds: 9 },
];
const peft = (name: string, medianMs: number, bestMs: number) => [
  { peft: "llama", medianMs, bestMs, peakBytes: 6e9 },
  { part: name, code: 0, seconds: 9 },
];

it("holds each figure against the other side's of the same call", () => {
  const { problems, rows } = tableOf([
    ...steps("steps-7b", 150),
    ...peft("peft-7b", 375, 282),
    ...steps("steps-7b-recomputed", 220),
    ...peft("peft-7b-recomputed", 400, 390),
    { ceiling: "copy", terabytesPerSecond: 4 },
    { decode: "llama2-7b.json", msPerToken: 2, terabytesPerSecond: 2 },
  ]);
  expect(problems).toEqual([]);
  const found = Object.fromEntries(rows.map(({ what, holds }) => [what, holds]));
  expect(found).toEqual({
    "7B QLoRA 1x1024": "yes",
    "7B QLoRA 1x1024, recomputed": "no",
    "its memory": "yes",
    "decode of 7B NF4, one request": "no",
  });
  expect(rows[0]!.wanted).toContain("2.50, 1.88");
});

it("tells what failed and what did not run before any figure", () => {
  const { problems, rows } = tableOf([
    {
      conform: "cuda",
      precision: "bf16",
      cases: 9,
      failed: 1,
      failures: [{ case: "rope t=3" }],
      worst: { rope: 0.5 },
    },
    { part: "conform-cuda-bf16", code: 1, seconds: 3 },
    { part: "decode-7b", skipped: true },
    { part: "peft-7b", code: 124, seconds: 70 },
  ]);
  expect(problems).toEqual([
    "conform-cuda-bf16 ended with 1",
    "decode-7b did not run: no time was left",
    "peft-7b ended with 124",
    "cuda bf16: 1 cases fail, first rope t=3",
  ]);
  expect(rows).toMatchObject([{ what: "conformance, cuda bf16", holds: "no" }]);
});
