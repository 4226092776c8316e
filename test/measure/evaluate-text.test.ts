// Answers to prompts and their scores: rows of one prompt are answered once and held against all their references.

import { expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { toExamples } from "../../src/data/index.ts";
import { generateBatch } from "../../src/generate/generate.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { groupPrompts, predictTexts, scoreTexts } from "../../src/measure/evaluate-text.ts";
import { openGolden } from "../conformance/model-case.ts";
import { loadModelGolden } from "../golden/load-golden.ts";
import { byteTokenizer } from "../text/byte-tokenizer.ts";

const tokenizer = byteTokenizer();

function examplesOf(rows: readonly Record<string, unknown>[]) {
  return toExamples(rows.map((value, i) => ({ id: { file: "rows", line: i + 1, unit: "line" }, value })))
    .rows;
}

it("groups rows that share a prompt, in their order, each reference once", () => {
  const examples = examplesOf([
    { prompt: "b", completion: "1" },
    { prompt: "a", completion: "2" },
    { prompt: "b", completion: "3" },
    { prompt: "b", completion: "1" },
    { prompt: "a", references: ["2", "4"] },
  ]);
  const { prompts, withoutAnswer } = groupPrompts(examples, { tokenizer });
  expect(withoutAnswer).toBe(0);
  expect(prompts.map(({ text, references }) => [text, references])).toEqual([
    ["b", ["1", "3"]],
    ["a", ["2", "4"]],
  ]);
  expect(prompts.map(({ rows }) => rows.map(({ line }) => line))).toEqual([
    [1, 3, 4],
    [2, 5],
  ]);
});

it("counts rows that ask nothing", () => {
  const { prompts, withoutAnswer } = groupPrompts(examplesOf([{ text: "a" }, { text: "b" }]), { tokenizer });
  expect({ prompts, withoutAnswer }).toEqual({ prompts: [], withoutAnswer: 2 });
});

it("answers in the prompts' order whatever their lengths, as each would be answered alone", async () => {
  const backend = openReference();
  const { decoder } = await openGolden(backend, loadModelGolden("llama-gqa-tied-llama3"));
  const ids = [
    [0, 70],
    [0, 60, 61, 62, 63, 64],
    [0, 90, 91],
    [0, 70, 71, 72],
  ];
  const prompts = ids.map((promptIds, i) => ({ text: "", ids: promptIds, references: [`${i}`], rows: [] }));
  const told: number[] = [];
  const before = backend.liveBytes;
  const predictions = await predictTexts(decoder, tokenizer, prompts, {
    maxNewTokens: 6,
    onProgress: (done, total) => told.push(done / total),
  });
  expect(told).toEqual([0.25, 0.5, 0.75, 1]);
  for (const [i, prediction] of predictions.entries()) {
    const [alone] = await generateBatch(decoder, [
      { promptIds: ids[i]!, maxNewTokens: 6, stopIds: tokenizer.eosIds, sampling: greedy },
    ]);
    expect(prediction.tokenIds).toEqual(alone!.tokenIds);
    expect(prediction.references).toEqual([`${i}`]);
    expect(prediction.prediction).toBe(tokenizer.decode(alone!.tokenIds));
  }
  expect(backend.liveBytes - before).toBeLessThan(2 ** 16);
});

it("scores by names", () => {
  const scores = scoreTexts(
    ["exact-match", "rouge", "bleu"],
    [
      { prediction: "the cat sat on the mat", references: ["a dog", "the cat sat on the mat"] },
      { prediction: "no", references: ["yes"] },
    ],
  );
  expect(Object.keys(scores)).toEqual(["exactMatch", "rouge1", "rouge2", "rougeL", "bleu"]);
  expect(scores).toMatchObject({ exactMatch: 0.5, rouge1: 0.5 });
});
