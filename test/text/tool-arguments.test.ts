// Arguments of tool calls reach a template in the form that it shows whole.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type ChatMessage, ChatTemplate } from "../../src/text/chat-template.ts";
import { argumentsText, parseArguments } from "../../src/text/parse-arguments.ts";
import { asset, hasAssets, WITHOUT } from "./assets.ts";

const OBJECT = { city: "Lyon", people: 4, notes: ['by "the" window', null, true] };
const TEXT = '{"city": "Lyon", "people": 4, "notes": ["by \\"the\\" window", null, true]}';
const COMPACT = '{"city":"Lyon","people":4,"notes":["by \\"the\\" window",null,true]}';

const calling = (args: unknown, id = "call00001"): ChatMessage[] => [
  { role: "user", content: "A table for 4 in Lyon" },
  {
    role: "assistant",
    content: "",
    tool_calls: [{ id, type: "function", function: { name: "book_table", arguments: args } }],
  },
];

const template = (shown: string) =>
  new ChatTemplate(
    `{% for m in messages %}{{ m.role }}:{{ m.content or '' }}{% for c in m.tool_calls or [] %}${shown}{% endfor %};{% endfor %}`,
    {},
    "T",
  );

describe("a template that wants an object", () => {
  it.each([
    ["{{ c.function.arguments | tojson }}", TEXT],
    ["{{ c.function | tojson }}", `{"name": "book_table", "arguments": ${TEXT}}`],
    [
      "{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v if v is string else v | tojson }}{% endfor %}",
      '<city>Lyon<people>4<notes>["by \\"the\\" window", null, true]',
    ],
  ])("%s gets text parsed", (shown, expected) => {
    for (const args of [OBJECT, TEXT, COMPACT]) {
      expect(template(shown).render(calling(args))).toBe(`user:A table for 4 in Lyon;assistant:${expected};`);
    }
  });

  it("gets {} for a blank text, and text that is no object as it is", () => {
    const shown = template("{{ c.function.arguments | tojson }}");
    expect(shown.render(calling(" "))).toContain("assistant:{};");
    expect(shown.render(calling("Lyon"))).toContain('assistant:"Lyon";');
    expect(shown.render(calling("[1]"))).toContain('assistant:"[1]";');
  });

  it("gets calls without a function inside parsed too", () => {
    const flat = template("{% set c = c.function or c %}{{ c.arguments | tojson }}");
    const talk = [{ role: "assistant", content: "", tool_calls: [{ name: "f", arguments: COMPACT }] }];
    expect(flat.render(talk)).toBe(`assistant:${TEXT};`);
  });
});

describe("a template that wants text", () => {
  it("gets it where only text can be joined to the rest", () => {
    const shown = template("{{ '<' + c.function.arguments + '>' }}");
    for (const [args, expected] of [
      [TEXT, TEXT],
      [COMPACT, COMPACT],
      [OBJECT, TEXT],
    ] as const) {
      expect(shown.render(calling(args))).toBe(`user:A table for 4 in Lyon;assistant:<${expected}>;`);
    }
  });

  it("gets what there is where it prints either, an object as Python prints one", () => {
    const shown = template("<{{ c.function.arguments }}>");
    expect(shown.render(calling(COMPACT))).toContain(`assistant:<${COMPACT}>;`);
    expect(shown.render(calling({ city: "Lyon", people: 4 }))).toContain(
      "assistant:<{'city': 'Lyon', 'people': 4}>;",
    );
  });

  it("gets numbers and the order of keys as they were written", () => {
    const exact = '{"10": 12.0, "2": 9007199254740993, "tiny": 1e-07}';
    const parsed = parseArguments(exact);
    expect(argumentsText(parsed)).toBe(exact);
    expect(template("{{ '<' + c.function.arguments + '>' }}").render(calling(parsed))).toContain(
      `<${exact}>`,
    );
    const asObject = template("{{ c.function.name }}{{ c.function.arguments | tojson }}");
    expect(asObject.render(calling(exact))).toContain(`assistant:book_table${exact};`);
    const talk = calling(exact);
    expect(asObject.dropped(talk, asObject.render(talk))).toEqual([]);
  });
});

it("leaves either form alone where a template takes both", () => {
  const both = template(
    "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}{% endif %}",
  );
  expect(both.render(calling(COMPACT))).toContain(`assistant:${COMPACT};`);
  expect(both.render(calling(OBJECT))).toContain(`assistant:${TEXT};`);
});

it("looks at the template that conversations with tools get", () => {
  const named = new ChatTemplate(
    {
      default: "{% for m in messages %}{{ m.content }}{% endfor %}",
      tool_use:
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}",
    },
    {},
    "T",
  );
  expect(named.render(calling(COMPACT), { tools: [{ function: { name: "book_table" } }] })).toBe(TEXT);
});

it("parses and writes", () => {
  expect(parseArguments(COMPACT)).toEqual(OBJECT);
  expect(parseArguments("")).toEqual({});
  expect(parseArguments("4")).toBeUndefined();
  expect(parseArguments("{")).toBeUndefined();
  expect(argumentsText(OBJECT)).toBe(TEXT);
});

describe.skipIf(!hasAssets)(`real templates${hasAssets ? "" : ` (${WITHOUT})`}`, () => {
  const tools = [
    {
      type: "function",
      function: { name: "book_table", description: "Book", parameters: { type: "object", properties: {} } },
    },
  ];
  it.each([
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "meta-llama-Llama-3.1-8B-Instruct",
    "GLM-4.6",
    "MiniMax-M2",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "moonshotai-Kimi-K2",
    "openai-gpt-oss-120b",
    "deepseek-ai-DeepSeek-V3.1",
    "meetkai-functionary-medium-v3.1",
  ])("%s shows both forms alike", (name) => {
    const source = readFileSync(asset(`tokenizers/chat-templates/${name}.jinja`), "utf8");
    const real = new ChatTemplate(source, { bos_token: "<s>", eos_token: "</s>" }, name);
    const render = (args: unknown) =>
      real.render(calling(args, "callAB123"), { tools, date: new Date(2024, 6, 26) });
    const text = render(TEXT);
    expect(render({ city: "Lyon", people: 4, notes: OBJECT.notes })).toBe(text);
    expect(text).toContain("Lyon");
    expect(text).not.toContain('\\"city\\"');
  });
});
