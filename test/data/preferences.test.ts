// Rows of preferences in the forms that TRL, LLaMA-Factory and ShareGPT files have: what each is read as, how it becomes
// tokens, and what is said of rows that are none.

import { describe, expect, it } from "vitest";
import { toExamples } from "../../src/data/index.ts";
import type { RowsWanted } from "../../src/data/row.ts";
import { prepareSamples } from "../../src/data/sample-builder.ts";
import { builtinTemplates } from "../../src/text/builtin-templates.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { byteTokenizer } from "../text/byte-tokenizer.ts";

const id = { file: "rows.jsonl", line: 3, unit: "line" } as const;
const read = (value: object, wanted: RowsWanted = "pairs") =>
  toExamples([{ id, value: value as Record<string, unknown> }], wanted);
const example = (value: object, wanted?: RowsWanted) => read(value, wanted).rows[0]!.example;
const user = (content: string) => ({ role: "user", content });
const says = (content: string) => ({ role: "assistant", content });
const chat = (...messages: object[]) => ({
  kind: "chat",
  messages,
  completionFrom: messages.length - 1,
});

describe("pairs", () => {
  const texts = [
    { kind: "completion", prompt: "q", completion: "good" },
    { kind: "completion", prompt: "q", completion: "bad" },
  ];
  const chats = [chat(user("q"), says("good")), chat(user("q"), says("bad"))];
  const withSystem = chats.map(({ messages }) => chat({ role: "system", content: "s" }, ...messages));
  const forms: Record<string, readonly [row: object, each: readonly object[]]> = {
    texts: [{ prompt: "q", chosen: "good", rejected: "bad" }, texts],
    "texts that begin with brackets": [
      { prompt: "q", chosen: "[1] good", rejected: "{bad}" },
      [
        { ...texts[0], completion: "[1] good" },
        { ...texts[1], completion: "{bad}" },
      ],
    ],
    "lists of messages": [{ prompt: [user("q")], chosen: [says("good")], rejected: [says("bad")] }, chats],
    "lists as JSON text": [
      {
        prompt: JSON.stringify([user("q")]),
        chosen: JSON.stringify([says("good")]),
        rejected: JSON.stringify([says("bad")]),
      },
      chats,
    ],
    "a list and texts": [{ prompt: [user("q")], chosen: "good", rejected: "bad" }, chats],
    "a text and lists": [{ prompt: "q", chosen: [says("good")], rejected: [says("bad")] }, chats],
    "no prompt": [{ chosen: [user("q"), says("good")], rejected: [user("q"), says("bad")] }, chats],
    "a prompt that conversations repeat": [
      { prompt: "q", chosen: [user("q"), says("good")], rejected: [user("q"), says("bad")] },
      chats,
    ],
    "no prompt, and a system": [
      { system: "s", chosen: [user("q"), says("good")], rejected: [user("q"), says("bad")] },
      withSystem,
    ],
    "a question with a system": [{ system: "s", question: "q", chosen: "good", rejected: "bad" }, withSystem],
    ShareGPT: [
      {
        conversations: [{ from: "human", value: "q" }],
        chosen: { from: "gpt", value: "good" },
        rejected: { from: "gpt", value: "bad" },
        system: "s",
      },
      withSystem,
    ],
    messages: [{ messages: [user("q")], chosen: says("good"), rejected: says("bad") }, chats],
    instruction: [
      { instruction: "q", input: "i", chosen: "good", rejected: "bad" },
      [
        { kind: "instruction", instruction: "q", input: "i", output: "good" },
        { kind: "instruction", instruction: "q", input: "i", output: "bad" },
      ],
    ],
    "instruction with a history": [
      { instruction: "q", input: "", chosen: "good", rejected: "bad", history: [["u", "a"]] },
      ["good", "bad"].map((answer) => chat(user("u"), says("a"), user("q"), says(answer))),
    ],
    "texts that begin alike": [
      { chosen: "Human: q Assistant: good", rejected: "Human: q Assistant: bad" },
      ["good", "bad"].map((answer) => ({
        ...{ kind: "completion", prompt: "Human: q Assistant:", completion: ` ${answer}` },
      })),
    ],
  };
  for (const [name, [row, each]] of Object.entries(forms)) {
    it(name, () => {
      expect(JSON.parse(JSON.stringify(example(row)))).toEqual({ kind: "alternatives", each });
      expect(read(row).ignoredKeys).toEqual({});
    });
  }

  it("names keys that nothing reads", () => {
    const row = { prompt: "q", chosen: "good", rejected: "bad", score_chosen: 8 };
    expect(read(row).ignoredKeys).toEqual({ score_chosen: 1 });
  });

  it.each([
    [{ prompt: "q", chosen: "good" }, /line 3: expected \{"prompt", "chosen", "rejected"\}.*found keys/],
    [
      { prompt: "q", completion: "good" },
      /line 3: expected .*"chosen".*found keys \{"prompt", "completion"\}/,
    ],
    [
      { prompt: "q", chosen: 4, rejected: "bad" },
      /"chosen" must be a string, a message or an array.*a number/,
    ],
    [{ chosen: "good", rejected: "bad" }, /share no beginning.*expected a "prompt"/],
    [{ chosen: "same", rejected: "same" }, /do not go on differently/],
    [{ chosen: [user("a"), says("x")], rejected: [user("b"), says("y")] }, /share no first message/],
    [
      { chosen: [user("a"), user("x")], rejected: [user("a"), says("y")] },
      /"chosen" holds no message of the/,
    ],
    [
      { prompt: "other", chosen: [user("a"), says("x")], rejected: [user("a"), says("y")] },
      /"prompt" is no message of what/,
    ],
    [
      { instruction: "q", chosen: [says("x")], rejected: "y" },
      /"chosen" must be a string beside "instruction"/,
    ],
    [{ prompt: "q", chosen: [{ role: "assistant" }], rejected: "bad" }, /chosen.*"content" is missing/],
  ])("refuses %j", (row, message) => {
    expect(() => read(row)).toThrow(message);
  });
});

describe("ratings", () => {
  const rated = (each: object, label: boolean) => ({ kind: "alternatives", each: [each], label });
  it.each([
    [
      { prompt: "q", completion: "a", label: true },
      { kind: "completion", prompt: "q", completion: "a" },
    ],
    [
      { prompt: "q", completion: "a", label: "True" },
      { kind: "completion", prompt: "q", completion: "a" },
    ],
    [{ messages: [user("q"), says("a")], label: true }, chat(user("q"), says("a"))],
    [{ conversations: [user("q"), says("a")], kto_tag: 1 }, chat(user("q"), says("a"))],
    [{ prompt: [user("q")], completion: [says("a")], label: true }, chat(user("q"), says("a"))],
    [
      { instruction: "q", input: "", output: "a", kto_tag: true },
      { kind: "instruction", instruction: "q", input: "", output: "a" },
    ],
  ])("%j", (row, each) => {
    expect(JSON.parse(JSON.stringify(example(row, "ratings")))).toEqual(rated(each, true));
  });

  it("a pair is a good and a bad answer, and neighbours have other prompts", () => {
    const rows = ["p", "q"].map((prompt, i) => ({
      id: { ...id, line: i + 1 },
      value: { prompt, chosen: "good", rejected: "bad" },
    }));
    const found = toExamples(rows, "ratings").rows.map(({ id: { line }, example: own }) => [
      line,
      own.kind === "alternatives" && own.label,
    ]);
    expect(found).toEqual([
      [1, true],
      [2, true],
      [1, false],
      [2, false],
    ]);
  });

  it.each([
    [
      { prompt: "q", completion: "a", label: "good" },
      /line 3: "label" must be true .* or false, found "good"/,
    ],
    [{ prompt: "q", completion: "a" }, /"label" must be true .* found nothing/],
    [{ label: true, words: 1 }, /expected \{"prompt", "completion", "label"\}.*found keys/],
    [{ messages: [user("q")], label: false }, /no message of the assistant follows/],
  ])("refuses %j", (row, message) => {
    expect(() => read(row, "ratings")).toThrow(message);
  });
});

it("what learns answers is told of the objectives", () => {
  expect(() => read({ prompt: "q", chosen: "a", rejected: "b" }, "targets")).toThrow(/--objective dpo/);
  expect(() => read({ prompt: "q", completion: "a", kto_tag: false }, "targets")).toThrow(/--objective kto/);
});

describe("as tokens", () => {
  const tokenizer = byteTokenizer({ generationConfig: { eos_token_id: [1, 2] } });
  const template = ChatTemplate.of(tokenizer, builtinTemplates.chatml)!;
  const samplesOf = (row: object, sequenceLength = 99, overLength: "error" | "drop" | "truncate" = "error") =>
    prepareSamples(
      read(row).rows,
      { tokenizer, template, sequenceLength, overLength },
      { file: "rows.jsonl", dataHash: "", format: "preference-pairs", ignoredKeys: {} },
    );
  const shown = (row: object) => {
    const [sample] = samplesOf(row).samples;
    const { ids, targetMask, fork } = sample!;
    const text = (start: number, end: number) =>
      tokenizer.decode([...ids.slice(start, end)], { skipSpecialTokens: false });
    let from = fork!.prompt;
    const completions = fork!.completions.map((length) => {
      const start = from;
      from += length;
      const learnt = [...ids.slice(start, from)].filter((_, i) => targetMask[start + i] === 1);
      return [text(start, from), tokenizer.decode(learnt, { skipSpecialTokens: false })];
    });
    expect(targetMask.subarray(0, fork!.prompt).includes(1)).toBe(false);
    return { prompt: text(0, fork!.prompt), completions };
  };

  it("texts share what stands before them, and end", () => {
    expect(shown({ prompt: "ab", chosen: "cd", rejected: "ce" })).toEqual({
      prompt: "<s>ab",
      completions: [
        ["cd</s>", "cd</s>"],
        ["ce</s>", "ce</s>"],
      ],
    });
  });

  it("conversations share their rendering up to the answers", () => {
    expect(shown({ prompt: [user("q")], chosen: "a", rejected: "b" })).toEqual({
      prompt: "<s><|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
      completions: [
        ["a<|im_end|>\n", "a<|im_end|>"],
        ["b<|im_end|>\n", "b<|im_end|>"],
      ],
    });
  });

  it("each sequence keeps within the sequence length", () => {
    const row = { prompt: "ab", chosen: "cdefgh", rejected: "x" };
    expect(() => samplesOf(row, 6)).toThrow(/line 3 with 10 tokens/);
    expect(samplesOf(row, 10).report.tokens).toBe(3 + 7 + 2);
    const { samples, report } = samplesOf(row, 6, "truncate");
    expect(samples[0]!.fork).toEqual({ prompt: 3, completions: [3, 2] });
    expect([...samples[0]!.targetMask]).toEqual([0, 0, 0, 1, 1, 1, 1, 1]);
    expect([report.truncated, report.withoutEos]).toEqual([1, 1]);
    expect(samplesOf(row, 3, "truncate").report.withoutTargets).toBe(1);
  });
});
