import { describe, expect, it } from "vitest";
import { alpacaPrompt } from "../../src/data/alpaca.ts";
import { rowFormats, toExamples } from "../../src/data/index.ts";
import type { Example, Row, RowFormat, RowValue } from "../../src/data/row.ts";
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
  preferencePairs: { prompt: "a", chosen: "b", rejected: "c" },
  ratedAnswers: { prompt: "a", completion: "b", label: true },
};

describe("row formats", () => {
  it.each(Object.entries(rowFormats))("%s reads its own rows", (name, format) => {
    const specimen = SPECIMENS[name as keyof typeof rowFormats];
    const { gives } = format as RowFormat;
    expect(toExamples(rows(specimen), gives).format).toBe(format);
    for (const key of Object.keys(specimen)) {
      expect(format.keys).toContain(key);
      const broken = { ...specimen, [key]: 5 };
      expect(() => toExamples(rows(broken), gives)).toThrow(
        new RegExp(`train\\.jsonl line 1: "${key}" must be`),
      );
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

  it("knows speakers whatever their case, and the names that other assistants go by", () => {
    const roles = (...names: string[]) => {
      const turns = names.map((role) => ({ role, content: "x" }));
      const found = example({ conversations: turns });
      return found.kind === "chat" ? found.messages.map(({ role }) => role) : [];
    };
    expect(roles("System", "Human", "GPT", "USER", "Assistant")).toEqual([
      "system",
      "user",
      "assistant",
      "user",
      "assistant",
    ]);
    expect(roles("human", "ai", "user", "bot", "user", "bard", "bing")).toEqual([
      "user",
      "assistant",
      "user",
      "assistant",
      "user",
      "assistant",
      "assistant",
    ]);
    expect(roles("critic", "ipython")).toEqual(["critic", "ipython"]);
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

describe("shapes in the wild", () => {
  const talk = [
    { role: "user", content: "q" },
    { role: "assistant", content: "a" },
  ];
  const chat = { kind: "chat", messages: talk };

  it.each<[string, RowValue, object]>([
    ["conversations with role and content", { conversations: talk }, chat],
    [
      "messages with from and value",
      {
        messages: [
          { from: "human", value: "q" },
          { from: "gpt", value: "a" },
        ],
      },
      chat,
    ],
    ["messages as JSON text", { messages: JSON.stringify(talk) }, chat],
    [
      "a list of messages and of tools as JSON text each",
      { messages: talk.map((turn) => JSON.stringify(turn)), tools: ['{"type": "f"}'] },
      { ...chat, tools: [{ type: "f" }] },
    ],
    ["conversations as JSON text", { conversations: JSON.stringify(talk) }, chat],
    [
      "lists of messages",
      { prompt: talk.slice(0, 1), completion: talk.slice(1) },
      { ...chat, completionFrom: 1 },
    ],
    [
      "lists of messages as JSON text",
      { prompt: JSON.stringify(talk.slice(0, 1)), completion: JSON.stringify(talk.slice(1)) },
      { ...chat, completionFrom: 1 },
    ],
    [
      "a system text beside messages",
      { system: "S", messages: talk },
      { ...chat, messages: [{ role: "system", content: "S" }, ...talk] },
    ],
    [
      "a system text beside lists of messages",
      { system: "S", prompt: talk.slice(0, 1), completion: talk.slice(1) },
      { kind: "chat", messages: [{ role: "system", content: "S" }, ...talk], completionFrom: 2 },
    ],
    [
      "the same system text twice",
      { system: "S", messages: [{ role: "system", content: "S" }, ...talk] },
      { ...chat, messages: [{ role: "system", content: "S" }, ...talk] },
    ],
    [
      "Alpaca with history and system",
      { system: "S", instruction: "i", input: "x", output: "o", history: [["q", "a"]] },
      {
        kind: "chat",
        messages: [
          { role: "system", content: "S" },
          ...talk,
          { role: "user", content: "i\n\nx" },
          { role: "assistant", content: "o" },
        ],
      },
    ],
    [
      "Alpaca with nothing in them",
      { system: "", instruction: "q", input: null, output: "a", history: [] },
      { kind: "instruction", instruction: "q", input: "", output: "a" },
    ],
    [
      "nulls of another source's columns",
      { messages: null, conversations: null, prompt: null, completion: null, text: "t" },
      { kind: "text", text: "t" },
    ],
    ["null keys of preference data", { chosen: null, rejected: null, label: null, messages: talk }, chat],
    [
      "an instruction whose output is null, beside messages",
      { instruction: "i", output: null, messages: talk },
      chat,
    ],
    [
      "an instruction whose output is null, beside text",
      { instruction: "i", output: null, text: "t" },
      { kind: "text", text: "t" },
    ],
    ["text beside messages", { text: "t", messages: talk }, chat],
    [
      "messages that are no list, beside text",
      { messages: "3 unread", text: "t" },
      { kind: "text", text: "t" },
    ],
    [
      "empty fields of a CSV file",
      { prompt: "", completion: "", messages: "", text: "t" },
      { kind: "text", text: "t" },
    ],
    [
      "a prompt that begins with a bracket",
      { prompt: "[1, 2", completion: "]" },
      { kind: "completion", prompt: "[1, 2", completion: "]" },
    ],
    [
      "references as JSON text",
      { prompt: "p", completion: "", references: '["a"]' },
      { kind: "completion", prompt: "p", completion: "", references: ["a"] },
    ],
  ])("reads %s", (_, row, expected) => {
    expect(example(row)).toEqual(expected);
  });

  it("turns OpenAI's older function calls into tools", () => {
    const row = {
      functions: [{ name: "book", parameters: {} }],
      messages: [
        { role: "user", content: "Book" },
        { role: "assistant", content: null, function_call: { name: "book", arguments: '{"n": 2}' } },
        { role: "function", name: "book", content: "ok" },
        { role: "assistant", content: "Booked.", function_call: null },
      ],
    };
    expect(example(row)).toEqual({
      kind: "chat",
      tools: [{ type: "function", function: { name: "book", parameters: {} } }],
      messages: [
        { role: "user", content: "Book" },
        {
          role: "assistant",
          tool_calls: [{ type: "function", function: { name: "book", arguments: '{"n": 2}' } }],
        },
        { role: "tool", name: "book", content: "ok" },
        { role: "assistant", content: "Booked." },
      ],
    });
  });

  it("keeps the order of a message's keys and leaves out those that are null", () => {
    const message = { content: "a", name: "n", role: "assistant", tool_calls: null, refusal: null };
    const read = example({ messages: [message] }) as Extract<Example, { kind: "chat" }>;
    expect(JSON.stringify(read.messages[0])).toBe('{"content":"a","name":"n","role":"assistant"}');
  });

  it("counts keys of messages that nobody reads, once a row", () => {
    const odd = {
      messages: [
        { ...talk[0], id: 1, mood: null },
        { ...talk[1], id: 2, weigth: 0, name: "x", thinking: "t" },
      ],
    };
    expect(toExamples(rows(odd, { messages: talk })).ignoredKeys).toEqual({
      "messages[].id": 1,
      "messages[].weigth": 1,
    });
    const plain = { prompt: "p", completion: "c", system: "S" };
    expect(toExamples(rows(plain)).ignoredKeys).toEqual({ system: 1 });
  });

  it.each<[RowValue, RegExp]>([
    [{ messages: null }, /line 1: "messages" must be a non-empty array/],
    [
      { messages: "[{'role': 'user'}]" },
      /"messages" is text that is not valid JSON\. It looks printed by Python/,
    ],
    [{ instruction: "i", output: null }, /"output" must be a string, found null/],
    [{ prompt: "p", completion: null }, /"completion" must be a string, found null/],
    [
      { prompt: talk, completion: "a" },
      /"prompt" is an array and "completion" is a string; expected two strings or two arrays/,
    ],
    [{ prompt: talk, completion: [] }, /"completion" must be a non-empty array/],
    [{ prompt: talk, completion: [talk[0]] }, /holds no message of the assistant/],
    [{ instruction: "i", output: "o", history: [["q"]] }, /"history" item 1: expected \[user, assistant\]/],
    [{ instruction: "i", output: "o", history: { a: 1 } }, /"history" must be an array/],
    [{ system: "S", messages: [{ role: "system", content: "T" }, ...talk] }, /two different system texts/],
    [{ messages: talk, tools: ["f"] }, /"tools" item 1: "tool" is text that is not valid JSON/],
    [
      { messages: talk, tools: [5] },
      /"tools" item 1 must be an object that describes a tool, found a number/,
    ],
    [{ messages: '[{"role": "user", "content": 12.0}]' }, /"content" must be a string, found a number/],
    [{ system: 5, messages: talk }, /"system" must be a string/],
    [{ messages: [{ role: "user", from: "gpt", content: "a" }] }, /"role" and "from" differ/],
    [{ messages: [{ role: "user", value: "b", content: "a" }] }, /"content" and "value" differ/],
    [
      { messages: [{ role: "assistant", function_call: { arguments: "{}" } }] },
      /a "function_call" needs "name"/,
    ],
    [{ messages: [{ role: "user", content: "a", function_call: { name: "f" } }] }, /is the assistant's/],
    [{ messages: [{ role: "assistant", content: null, tool_calls: [] }] }, /"content" is missing/],
    [{ messages: [{ role: "assistant", tool_calls: "f()" }] }, /"tool_calls" is text that is not valid JSON/],
  ])("refuses %j", (row, message) => {
    expect(() => example(row)).toThrow(message);
  });
});
