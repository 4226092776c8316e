import { describe, expect, it } from "vitest";
import { toExamples } from "../../src/data/index.ts";
import { type Rendering, renderExample, renderPrompt } from "../../src/data/render.ts";
import type { Example, Row, RowValue } from "../../src/data/row.ts";
import { builtinTemplates } from "../../src/text/builtin-templates.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { byteTokenizer } from "../text/byte-tokenizer.ts";

const tokenizer = byteTokenizer({ generationConfig: { eos_token_id: [1, 2] } });
const template = (source: string) => ChatTemplate.of(tokenizer, source)!;
const chatml = template(builtinTemplates.chatml);
const PLAIN =
  "{% for m in messages %}<{{ m.role }}>{{ m.content }}|{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
/** The answer and its end in two marked parts, tool calls in none. */
const TWO_MARKS =
  "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and not m.tool_calls %}{% generation %}{{ m.content }}{% endgeneration %}{% generation %}|{% endgeneration %}{% else %}{{ m.content }}|{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

const example = (value: RowValue) => {
  const row: Row = { id: { file: "f.jsonl", line: 1, unit: "line" }, value };
  return toExamples([row]).rows[0]!.example;
};

const chatOf = (value: RowValue) => example(value) as Extract<Example, { kind: "chat" }>;

/** What bears loss, part by part. */
function learnt(value: RowValue, rendering: Partial<Rendering> = {}): string[] {
  const { ids, targetMask } = renderExample(example(value), {
    tokenizer,
    template: template(PLAIN),
    ...rendering,
  });
  const parts: number[][] = [];
  for (const [i, id] of ids.entries()) {
    if (targetMask[i] !== 1) continue;
    if (targetMask[i - 1] === 1) parts.at(-1)!.push(id);
    else parts.push([id]);
  }
  return parts.map((part) => tokenizer.decode(part, { skipSpecialTokens: false }));
}

const turns = (first: object, second: object, user: object = {}) => [
  { role: "user", content: "q", ...user },
  { role: "assistant", content: "wrong", ...first },
  { role: "user", content: "sure?" },
  { role: "assistant", content: "right", ...second },
];

describe("marks in messages", () => {
  it.each([
    [{ weight: 0 }, { weight: 1 }],
    [{ weight: 0 }, {}],
    [{ loss_weight: 0.5 - 0.5 }, { loss_weight: null }],
    [{ train: false }, { train: true }],
    [{ training: false }, {}],
    [{ trainable: false }, { trainable: true }],
    [{ loss: false }, { loss: true }],
    [{ masked: true }, { masked: false }],
    [{ train: 0 }, { train: 1 }],
    [{ weight: 0, train: false }, { train_detail: [] }],
  ])("%j and %j keep the loss off the first answer, in every template", (first, second) => {
    const row = { messages: turns(first, second) };
    expect(learnt(row)).toEqual(["right|"]);
    expect(learnt(row, { template: chatml })).toEqual(["right<|im_end|>"]);
    expect(learnt(row, { template: template(TWO_MARKS) })).toEqual(["right|"]);
    expect(learnt(row, { trainOn: "assistant" })).toEqual(["right|"]);
    expect(learnt(row, { trainOn: "all" })).toEqual(["user>q|<assistant>", "<user>sure?|<assistant>right|"]);
  });

  it("are taken off the messages that templates see", () => {
    const printed = template("{% for m in messages %}{{ m | tojson }};{% endfor %}");
    const { messages } = chatOf({ messages: turns({ weight: 0 }, { train: true }) });
    expect(printed.render(messages)).not.toMatch(/weight|train/);
  });

  it("can take the last turn away, under --train-on completions too", () => {
    expect(learnt({ messages: turns({}, { weight: 0 }) })).toEqual(["wrong|"]);
    expect(learnt({ messages: turns({}, { weight: 0 }) }, { trainOn: "completions" })).toEqual([]);
    const chat = example({ messages: turns({}, { weight: 0 }) });
    expect(renderPrompt(chat, { tokenizer, template: template(PLAIN) })?.references).toEqual(["wrong"]);
  });

  it("hold in every row shape", () => {
    const from = [
      { from: "human", value: "q", train: false },
      { from: "gpt", value: "wrong", train: false },
      { from: "human", value: "sure?" },
      { from: "gpt", value: "right", train: true },
    ];
    expect(learnt({ conversations: from })).toEqual(["right|"]);
    expect(learnt({ conversations: turns({ weight: 0 }, {}) })).toEqual(["right|"]);
    expect(learnt({ system: "S", messages: JSON.stringify(turns({ weight: 0 }, {})) })).toEqual(["right|"]);
    expect(learnt({ messages: JSON.stringify(turns({ weight: 7 }, {})).replace("7", "0.0") })).toEqual([
      "right|",
    ]);
    const completion = [
      { role: "assistant", content: "a", weight: 0 },
      { role: "user", content: "b" },
      { role: "assistant", content: "c" },
    ];
    const row = { prompt: turns({}, {}).slice(0, 3), completion };
    expect(learnt(row)).toEqual(["c|"]);
    expect(learnt({ ...row, system: "S" }, { trainOn: "completions" })).toEqual(["c|"]);
    expect(learnt(row, { trainOn: "assistant" })).toEqual(["wrong|", "c|"]);
  });

  it.each([
    [
      { weight: 2 },
      /f\.jsonl line 1, message 2: "weight" must be 0 \(no loss on this message\) or 1, found 2/,
    ],
    [{ weight: 0.5 }, /"weight" must be 0 .*found 0\.5/],
    [{ loss_scale: 2 }, /"loss_scale" must be 0/],
    [{ weight: "1" }, /"weight" must be 0 .*found "1"/],
    [{ weight: true }, /"weight" must be 0 .*found a boolean/],
    [{ train: "no" }, /"train" must be true or false, found "no"/],
    [{ loss: 0.31 }, /"loss" must be true or false, found 0\.31/],
    [{ weight: 1, train: false }, /"weight" and "train" disagree/],
    [{ masked: true, trainable: true }, /disagree/],
    [
      { train_detail: [{ begin_offset: 0, end_offset: 2, train: true }] },
      /"train_detail" marks parts of a message/,
    ],
  ])("refuses %j", (mark, message) => {
    expect(() => example({ messages: turns(mark, {}) })).toThrow(message);
  });

  it("on a part of a message are refused, and other keys of a part told", () => {
    const parts = (...marks: object[]) => ({
      messages: turns({ content: marks.map((mark) => ({ type: "text", text: "x", ...mark })) }, {}),
    });
    expect(() => example(parts({ weight: 0 }, {}))).toThrow(
      /line 1, message 2: "weight" marks a part of "content"/,
    );
    expect(() => example(parts({ train: "no" }))).toThrow(/a part of "content": "train" must be/);
    expect(learnt(parts({ weight: 1 }, { train: true }))).toEqual(["xx|", "right|"]);
    const id = { file: "f.jsonl", line: 1, unit: "line" } as const;
    expect(toExamples([{ id, value: parts({ cache_control: {} }) }]).ignoredKeys).toEqual({
      "messages[].content[].cache_control": 1,
    });
  });

  it("that ask to learn what others say are refused, unless everything is learnt", () => {
    const row = { messages: turns({}, {}, { train: true }) };
    expect(() => learnt(row)).toThrow(
      /message 1 is marked to be learnt, but its role is "user".*--train-on all/,
    );
    expect(learnt(row, { trainOn: "all" })).toHaveLength(1);
    expect(learnt({ messages: turns({}, {}, { weight: 0 }) })).toEqual(["wrong|", "right|"]);
  });

  it("are refused where a template's marks do not tell turns apart", () => {
    const lumped = template(
      "{% generation %}{% for m in messages %}<{{ m.role }}>{{ m.content }}|{% endfor %}{% endgeneration %}",
    );
    expect(() => learnt({ messages: turns({ weight: 0 }, {}) }, { template: lumped })).toThrow(
      /do not tell which message says what/,
    );
    expect(learnt({ messages: turns({}, {}) }, { template: lumped })).toHaveLength(1);
  });

  it("find their turn where some turns have no marked text and others two", () => {
    const messages = [
      { role: "user", content: "q" },
      { role: "assistant", content: "look", tool_calls: [{ function: { name: "f", arguments: {} } }] },
      { role: "tool", content: "r" },
      { role: "assistant", content: "one", weight: 0 },
      { role: "user", content: "again" },
      { role: "assistant", content: "two" },
    ];
    expect(learnt({ messages }, { template: template(TWO_MARKS) })).toEqual(["two|"]);
  });
});
