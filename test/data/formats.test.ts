import { describe, expect, it } from "vitest";
import { alpacaPrompt } from "../../src/data/alpaca.ts";
import { rowFormats, toExamples } from "../../src/data/index.ts";
import type { Row, RowValue } from "../../src/data/row.ts";
import { UserError } from "../../src/util/errors.ts";

const rows = (...values: RowValue[]): Row[] =>
  values.map((value, i) => ({ id: { file: "train.jsonl", line: i + 1, unit: "line" }, value }));
const example = (value: RowValue) => toExamples(rows(value)).rows[0]!.example;

/** One row of every registered format. */
const SPECIMENS: Record<keyof typeof rowFormats, RowValue> = {
  messages: { messages: [{ role: "user", content: "a" }] },
  sharegpt: { conversations: [{ from: "human", value: "a" }] },
  promptCompletion: { prompt: "a", completion: "b" },
  alpaca: { instruction: "a", input: "", output: "b" },
  questionAnswer: { question: "a", answer: "b" },
  text: { text: "a" },
};

describe("row formats", () => {
  it.each(Object.entries(rowFormats))("%s reads its own rows", (name, format) => {
    const specimen = SPECIMENS[name as keyof typeof rowFormats];
    expect(toExamples(rows(specimen)).format).toBe(format);
    for (const key of Object.keys(specimen)) {
      expect(format.keys).toContain(key);
      const broken = { ...specimen, [key]: 5 };
      expect(() => toExamples(rows(broken))).toThrow(new RegExp(`train\\.jsonl line 1: "${key}" must be`));
    }
  });

  it("names the line, what is expected and what is there", () => {
    const bad = rows({ text: "a" }, { text2: "b" });
    expect(() => toExamples(bad)).toThrow(
      'train.jsonl line 2: expected {"messages"}, {"conversations"}, {"prompt", "completion"}, {"instruction", "input"?, "output"}, {"question", "answer"} or {"text"}; found keys {"text2"}',
    );
    expect(() => toExamples([])).toThrow(UserError);
  });

  it("wants one format throughout", () => {
    expect(() => toExamples(rows(SPECIMENS.text, SPECIMENS.messages))).toThrow(
      'line 2: a {"messages"} row among {"text"} rows',
    );
  });

  it("counts keys that it does not read", () => {
    const { ignoredKeys, format } = toExamples(
      rows({ ...SPECIMENS.alpaca, text: "t" }, { ...SPECIMENS.alpaca, text: "t", id: 1 }),
    );
    expect(format.name).toBe("alpaca");
    expect(ignoredKeys).toEqual({ text: 2, id: 1 });
  });

  it("refuses preference data", () => {
    expect(() => example({ ...SPECIMENS.sharegpt, chosen: {}, rejected: {} })).toThrow(/preference data/);
    expect(() => example({ ...SPECIMENS.messages, label: false })).toThrow(/rated good or bad/);
  });
});

describe("messages", () => {
  it("keeps further keys and joins text parts", () => {
    const call = { role: "assistant", tool_calls: [{ function: { name: "f", arguments: {} } }] };
    const parts = [
      { type: "text", text: "a" },
      { type: "text", text: "b" },
    ];
    expect(
      example({ messages: [{ role: "user", content: parts, name: "x" }, call], tools: '[{"type":"f"}]' }),
    ).toEqual({
      kind: "chat",
      messages: [{ role: "user", content: "ab", name: "x" }, call],
      tools: [{ type: "f" }],
    });
  });

  it.each([
    [{ messages: [] }, /empty array/],
    [{ messages: ["a"] }, /message 1: expected \{"role", "content"\}, found a string/],
    [{ messages: [{ role: 1, content: "" }] }, /"role" must be a string/],
    [{ messages: [{ role: "user" }] }, /"content" is missing/],
    [{ messages: [{ role: "user", content: [{ type: "image" }] }] }, /"image"; only text parts/],
    [{ messages: [{ role: "user", content: "" }], tools: "x" }, /"tools" is text that is not valid JSON/],
    [{ messages: [{ role: "user", content: "" }], tools: { a: 1 } }, /"tools" must be an array/],
  ])("refuses %j", (row, message) => {
    expect(() => example(row)).toThrow(message);
  });
});

describe("sharegpt", () => {
  it("maps speakers, calls and tools", () => {
    const row = {
      system: "S",
      tools: '[{"name": "f"}]',
      conversations: [
        { from: "human", value: "q" },
        { from: "function_call", value: '{"name": "f", "arguments": {"x": 1}}' },
        { from: "observation", value: "r" },
        { from: "gpt", value: "a" },
      ],
    };
    expect(example(row)).toEqual({
      kind: "chat",
      tools: [{ type: "function", function: { name: "f" } }],
      messages: [
        { role: "system", content: "S" },
        { role: "user", content: "q" },
        {
          role: "assistant",
          content: "",
          tool_calls: [{ type: "function", function: { name: "f", arguments: { x: 1 } } }],
        },
        { role: "tool", content: "r" },
        { role: "assistant", content: "a" },
      ],
    });
  });

  it.each([
    [{ from: "humen", value: "a" }, /turn 1: unknown speaker "humen".*Did you mean human/],
    [{ from: "human" }, /"value" must be a string, found nothing/],
    [{ from: "function_call", value: "f()" }, /not valid JSON/],
    [{ from: "function_call", value: "{}" }, /needs "name"/],
  ])("refuses %j", (turn, message) => {
    expect(() => example({ conversations: [turn] })).toThrow(message);
  });
});

describe("prompt-completion and alpaca", () => {
  it("reads references with and without a completion", () => {
    expect(example({ prompt: "p", references: ["a", "b"] })).toEqual({
      kind: "completion",
      prompt: "p",
      completion: "a",
      references: ["a", "b"],
    });
    expect(() => example({ prompt: "p", references: [] })).toThrow(/non-empty|must be an array/);
    expect(() => example({ prompt: "p", references: [1] })).toThrow(/strings only/);
  });

  it("writes headings", () => {
    const row = { kind: "instruction", instruction: "I", input: "", output: "O" } as const;
    expect(alpacaPrompt(row)).toBe("### Instruction:\nI\n\n### Response:\n");
    expect(alpacaPrompt({ ...row, input: "X" })).toBe(
      "### Instruction:\nI\n\n### Input:\nX\n\n### Response:\n",
    );
  });
});
