// The preflight: each planted fault of test/data/faults is found and refused or warned of, and clean data pass; so do
// real public data sets, where they are there.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { type DatasetOptions, loadDataset } from "../../src/data/dataset.node.ts";
import { type FindingCode, preflight, refuseRun } from "../../src/data/preflight.ts";
import { builtinTemplates } from "../../src/text/builtin-templates.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { asset, assetJson, hasAssets, WITHOUT } from "../text/assets.ts";
import { byteTokenizer } from "../text/byte-tokenizer.ts";

const fault = (name: string) => fileURLToPath(new URL(`faults/${name}.jsonl`, import.meta.url));
const tokenizer = byteTokenizer({ generationConfig: { eos_token_id: [1, 2] } });
const chatml = ChatTemplate.of(tokenizer, builtinTemplates.chatml)!;

async function check(path: string, options: Partial<DatasetOptions> = {}, evalPath?: string) {
  const using = { tokenizer, sequenceLength: 256, overLength: "truncate" as const, ...options };
  const { samples, report } = await loadDataset(path, using);
  const evaluation = evalPath === undefined ? undefined : (await loadDataset(evalPath, using)).samples;
  return preflight({ train: samples, report, evaluation, rendering: using });
}

const codes = (findings: readonly { code: FindingCode; level: string }[]) =>
  Object.fromEntries(findings.map(({ code, level }) => [code, level]));

describe("planted faults", () => {
  it("passes clean rows and evaluation rows", async () => {
    expect((await check(fault("clean"), {}, fault("clean-eval"))).findings).toEqual([]);
    expect((await check(fault("conversations"), { template: chatml })).findings).toEqual([]);
  });

  it("finds rows that are dropped or cut", async () => {
    const cut = await check(fault("long-rows"), { sequenceLength: 64 });
    expect(cut).toMatchObject({ cut: 12, dropped: 0 });
    expect(codes(cut.findings)).toMatchObject({ length: "refuse" });
    const dropped = await check(fault("long-rows"), { sequenceLength: 64, overLength: "drop" });
    expect(dropped).toMatchObject({ cut: 0, dropped: 12, samples: 10 });
  });

  it("tells of keys that nothing reads, of rows and of messages, but not of those that the template names", async () => {
    const path = join(mkdtempSync(join(tmpdir(), "lowrank-keys-")), "keys.jsonl");
    const messages = [
      { role: "user", content: "q", mood: "calm" },
      { role: "assistant", content: "a", weigth: 0 },
    ];
    writeFileSync(path, `${JSON.stringify({ id: 7, messages })}\n`);
    const { findings, ignoredKeys } = await check(path, { template: chatml });
    expect(ignoredKeys).toEqual({ id: 1, "messages[].mood": 1, "messages[].weigth": 1 });
    expect(codes(findings)).toEqual({ "ignored-keys": "warn" });
    expect(findings[0]!.message).toContain('"messages[].weigth" (1 rows)');
    const moody = ChatTemplate.of(tokenizer, `{# mood #}${builtinTemplates.chatml}`)!;
    expect((await check(path, { template: moody })).ignoredKeys).not.toHaveProperty(["messages[].mood"]);
    rmSync(dirname(path), { recursive: true });
  });

  it("finds pairs whose answers are one", async () => {
    const path = join(mkdtempSync(join(tmpdir(), "lowrank-pairs-")), "pairs.jsonl");
    const pairs = [
      { prompt: "red: ", chosen: "stone", rejected: "cloud" },
      { prompt: "green: ", chosen: "river", rejected: "river" },
      { prompt: "blue: ", chosen: "rivet", rejected: "river" },
      { prompt: "grey: ", chosen: "hill", rejected: "hills" },
    ];
    writeFileSync(path, pairs.map((pair) => `${JSON.stringify(pair)}\n`).join(""));
    const { findings } = await check(path, { rows: "pairs" });
    expect(findings).toEqual([
      {
        ...{ code: "equal-answers", level: "warn", rows: ["pairs.jsonl line 2"] },
        message: expect.stringContaining("1 of 4 pairs"),
      },
    ]);
    rmSync(dirname(path), { recursive: true });
  });

  it("finds rows without target tokens", async () => {
    const most = await check(fault("no-targets"), { template: chatml });
    expect(most.withoutTargets).toBe(12);
    expect(codes(most.findings)).toEqual({ "empty-targets": "refuse" });
    const one = await check(fault("one-without-target"), { template: chatml });
    expect(codes(one.findings)).toEqual({ "empty-targets": "warn" });
  });

  it("finds a template that never ends an answer", async () => {
    const endless = ChatTemplate.of(
      tokenizer,
      "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    )!;
    const { findings, withoutEos } = await check(fault("conversations"), { template: endless });
    expect(withoutEos).toBe(12);
    expect(codes(findings)).toEqual({ "missing-eos": "refuse" });
    expect(findings[0]!.message).toContain("the chat template or the cut at --sequence-length");
    const otherEnd = ChatTemplate.of(
      byteTokenizer(),
      "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    )!;
    const other = await check(fault("conversations"), { template: otherEnd, tokenizer: byteTokenizer() });
    expect(other.findings[0]!.message).toContain('pass --eos-token "<|im_end|>"');
    expect(() => refuseRun(findings, [])).toThrow(/--allow missing-eos/);
    expect(() => refuseRun(findings, ["missing-eos"])).not.toThrow();
  });

  it("finds a template whose prompt is not what was trained", async () => {
    const thinking = ChatTemplate.of(
      tokenizer,
      "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}",
    )!;
    const { findings, promptMismatches } = await check(fault("conversations"), { template: thinking });
    expect(promptMismatches).toBe(12);
    expect(codes(findings)).toEqual({ "prompt-mismatch": "warn" });
  });

  it("finds a template that leaves out a part of conversations, in evaluation rows too", async () => {
    const userless = ChatTemplate.of(
      tokenizer,
      "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% endif %}{% endfor %}",
    )!;
    const { findings, droppedContent, rows } = await check(fault("conversations"), { template: userless });
    expect(droppedContent).toBe(rows);
    expect(codes(findings)).toMatchObject({ "dropped-content": "refuse" });
    expect(() => refuseRun(findings, [])).toThrow(
      /conversations\.jsonl line 1, message 1 \(user\): its text .*--allow .*dropped-content/,
    );
  });

  it("finds copies", async () => {
    const many = await check(fault("duplicates"));
    expect(many.duplicates).toBe(20);
    expect(codes(many.findings)).toEqual({ duplicates: "refuse" });
    expect(codes((await check(fault("some-duplicates"))).findings)).toEqual({ duplicates: "warn" });
  });

  it("finds evaluation rows that are trained on", async () => {
    const { overlap, findings } = await check(fault("clean"), {}, fault("overlap-eval"));
    expect(overlap).toBe(4);
    expect(codes(findings)).toEqual({ overlap: "refuse" });
    expect(findings[0]!.rows[0]).toBe("overlap-eval.jsonl line 1");
  });

  it("finds text that the tokenizer does not know", async () => {
    const files = { specialTokensMap: { unk_token: "<|im_end|>" } };
    const limited = byteTokenizer({
      ...files,
      tokenizerConfig: { bos_token: "<s>", eos_token: "</s>", unk_token: "<|im_end|>" },
    });
    const encode = limited.encode.bind(limited);
    limited.encode = (text, how) => encode(text.replaceAll("☃", "<|im_end|>"), how);
    const { unknownText, findings } = await check(fault("unknown-text"), { tokenizer: limited });
    expect(unknownText).toBe(12);
    expect(codes(findings)).toEqual({ "unknown-text": "warn" });
  });
});

it("shows five rows token by token with the mask", async () => {
  const { shown } = await check(fault("clean"));
  expect(shown).toHaveLength(5);
  const { row, tokens, more } = shown[0]!;
  expect(row).toBe("clean.jsonl line 1");
  expect(more).toBe(0);
  expect(tokens.map(({ text }) => text).join("")).toBe("<s>The red box holds teal stones.</s>");
  expect(
    tokens
      .filter(({ target }) => target)
      .map(({ text }) => text)
      .join(""),
  ).toBe(" teal stones.</s>");
});

describe.skipIf(!hasAssets)(`real data sets${hasAssets ? "" : ` (${WITHOUT})`}`, () => {
  const qwen = () =>
    new Tokenizer({
      name: "qwen3",
      tokenizer: assetJson("tokenizers/qwen3/derived/tokenizer.json"),
      tokenizerConfig: assetJson("tokenizers/qwen3/tokenizer_config.json"),
    });
  it.each([
    ["alpaca/alpaca_5000.json", 1000],
    ["llamafactory/alpaca_en_demo.json", 999],
    ["llamafactory/glaive_toolcall_en_demo.json", 300],
    ["gsm8k/test.jsonl", 1319],
    ["wikisql-mlx/train.jsonl", 1000],
  ])("passes %s", async (name, atLeast) => {
    const using = qwen();
    const template = ChatTemplate.of(using, undefined);
    const options = { tokenizer: using, template, sequenceLength: 16384 };
    const evalPath = name.startsWith("wikisql") ? asset("data/wikisql-mlx/valid.jsonl") : undefined;
    const report = await check(asset(`data/${name}`), options, evalPath);
    expect(report.rows).toBeGreaterThanOrEqual(atLeast);
    expect(report.findings.filter(({ level }) => level === "refuse")).toEqual([]);
    // What remains is true of the data: copies in the tool calls, and the thought that Qwen's prompt opens.
    const words = report.findings.map(({ code }) => code);
    expect(words.filter((code) => !code.endsWith("duplicates"))).toEqual([]);
  });
});
