// `eval` and `generate` on a model that `train` made: it learns a few rows by heart, so every answer is known.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { evalDefinition } from "../../src/config/eval-options.ts";
import { resolveOptions } from "../../src/config/resolve.ts";
import { textMetrics } from "../../src/metrics/index.ts";
import {
  backendName,
  expectRefusal,
  lowrank,
  scratchFolder,
  succeed,
  summaryIn,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const base = writeTinyModel(join(folder, "base"));
const learnt = [
  { prompt: "color of grass: ", completion: "deep green" },
  { prompt: "color of the sky: ", completion: "pale blue" },
  { prompt: "as data: ", completion: '{"a": [1, 2]}' },
];
const rows = writeRows(join(folder, "learnt.jsonl"), learnt);
const unseen = writeRows(join(folder, "unseen.jsonl"), [
  { prompt: "color of snow: ", completion: "white" },
  { prompt: "color of coal: ", completion: "a very dark gray" },
]);
const tuned = join(folder, "tuned");
const device = ["--backend", backendName, "--precision", "fp32"];
const onTuned = ["--model", base, "--adapter", tuned, ...device];
let trained: { perplexity: number };

beforeAll(() => {
  const { stdout } = succeed(
    ...["train", "--model", base, "--data", rows, "--eval-data", unseen, "--out", tuned, ...device, "--json"],
    ...[
      "--rank",
      "48",
      "--alpha",
      "96",
      "--learning-rate",
      "0.01",
      "--max-steps",
      "60",
      "--schedule",
      "constant",
    ],
  );
  trained = summaryIn(stdout) as unknown as typeof trained;
});

const evaluate = (...args: string[]) =>
  JSON.parse(succeed("eval", ...onTuned, "--max-new-tokens", "20", ...args, "--json").stdout);

describe("eval", () => {
  it("knows what was learnt by heart: every metric, and the perplexity that training saw", () => {
    const names = ["perplexity", ...Object.keys(textMetrics)].join(",");
    const scores = evaluate("--data", rows, "--metrics", names);
    expect(scores).toMatchObject({ exactMatch: 1, rouge1: 1, rougeL: 1, rows: 3, prompts: 3 });
    expect(scores.bleu).toBeCloseTo(100, 6);
    expect(scores.chrf).toBeCloseTo(100, 6);
    expect(scores.jsonValid).toBeCloseTo(1 / 3, 12);
    const onUnseen = evaluate("--data", unseen).perplexity;
    expect(Math.abs(onUnseen / trained.perplexity - 1)).toBeLessThan(1e-5);
    // Each target token is a byte or an EOS: 32 bytes in 3 rows.
    expect(scores.tokens).toBe(35);
    expect(scores.bytePerplexity).toBeCloseTo(scores.perplexity ** (35 / 32), 6);
    const untrained = JSON.parse(
      succeed("eval", "--model", base, ...device, "--data", rows, "--metrics", "perplexity", "--json").stdout,
    );
    expect(untrained.perplexity).toBeGreaterThan(50 * scores.perplexity);
    expect(Object.keys(untrained)).not.toContain("exactMatch");
  });

  it("answers a prompt once for all its rows, and writes what it answered", () => {
    const shared = writeRows(join(folder, "shared.jsonl"), [
      { prompt: learnt[0]!.prompt, completion: "red" },
      { prompt: learnt[1]!.prompt, completion: "black" },
      { prompt: learnt[0]!.prompt, completion: "deep green" },
    ]);
    const predictions = join(folder, "predictions.jsonl");
    const scores = evaluate("--data", shared, "--metrics", "exact-match", "--predictions", predictions);
    expect(scores).toMatchObject({ exactMatch: 0.5, rows: 3, prompts: 2 });
    const lines = readFileSync(predictions, "utf8").trim().split("\n");
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      {
        prompt: learnt[0]!.prompt,
        prediction: "deep green",
        references: ["red", "deep green"],
        row: 1,
        rows: [1, 3],
        finishReason: "stop",
      },
      {
        prompt: learnt[1]!.prompt,
        prediction: "pale blue",
        references: ["black"],
        row: 2,
        finishReason: "stop",
      },
    ]);
  });

  it("reads conversations through a template, and prints a table without --json", () => {
    const chats = writeRows(join(folder, "chats.jsonl"), [
      {
        messages: [
          { role: "user", content: "hello" },
          { role: "assistant", content: "good day" },
        ],
      },
    ]);
    const { stdout, stderr } = succeed(
      ...["eval", ...onTuned, "--data", chats, "--chat-template", "alpaca", "--max-new-tokens", "4"],
      ...["--metrics", "perplexity,rouge"],
    );
    expect(stdout).toMatch(/metric +score\n[\s\S]*perplexity +\d+\.\d{4}\n[\s\S]*rougeL +0\.0000/);
    expect(stdout).toContain("1 rows, 9 target tokens, 1 prompts answered");
    expect(stderr).toContain("model: llama on");
    expectRefusal(lowrank("eval", ...onTuned, "--data", chats), 1, ["--chat-template"]);
  });

  it("has options that YAML may give", () => {
    const options = resolveOptions(evalDefinition, { model: "m", data: "d", metrics: ["perplexity,bleu"] });
    expect(options.metrics).toEqual(["perplexity", "bleu"]);
  });
});

describe("generate", () => {
  const { prompt, completion } = learnt[1]!;
  const generate = (...args: string[]) => succeed("generate", ...onTuned, "--prompt", prompt, ...args);

  it("prints one document under --json, and streams text without", () => {
    const document = JSON.parse(generate("--json").stdout);
    expect(document).toMatchObject({ text: completion, finishReason: "stop" });
    expect(document.tokenIds).toHaveLength(completion.length);
    expect(document.tokensPerSecond).toBeGreaterThan(0);
    const { stdout, stderr } = generate();
    expect(stdout).toBe(`${completion}\n`);
    expect(stderr).toContain("9 tokens");
    const short = JSON.parse(generate("--json", "--max-new-tokens", "4").stdout);
    expect(short).toMatchObject({ text: "pale", finishReason: "length" });
  });

  it("ends before a stop text", () => {
    const document = JSON.parse(generate("--json", "--stop", " bl").stdout);
    expect(document).toMatchObject({ text: "pale", finishReason: "stop" });
  });

  it("samples by seed, and greedily where one token is left to choose from", () => {
    const hot = ["--temperature", "3", "--max-new-tokens", "30", "--json"];
    const drawn = (...more: string[]) => JSON.parse(generate(...hot, ...more).stdout).text;
    expect(drawn("--seed", "5")).toBe(drawn("--seed", "5"));
    expect(drawn("--seed", "5")).not.toBe(drawn("--seed", "6"));
    for (const one of [
      ["--top-k", "1"],
      ["--top-p", "0.0001"],
      ["--min-p", "1"],
    ])
      expect(drawn(...one)).toBe(completion);
    expect(drawn("--top-k", "1", "--repetition-penalty", "50")).not.toBe(completion);
  });

  it("puts a prompt through a chat template", () => {
    const plain = JSON.parse(generate("--json").stdout).promptTokens;
    const chat = JSON.parse(generate("--json", "--chat", "--chat-template", "alpaca").stdout).promptTokens;
    expect(chat - plain).toBe("### Instruction:\n\n\n### Response:\n".length);
  });
});
