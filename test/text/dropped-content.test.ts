// What templates leave out is found, and what they only write differently is not taken for it.

import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { builtinTemplates } from "../../src/text/builtin-templates.ts";
import { type ChatMessage, ChatTemplate } from "../../src/text/chat-template.ts";
import { renderRequest } from "../../src/text/render-request.ts";
import { UserError } from "../../src/util/errors.ts";
import { asset, hasAssets, WITHOUT } from "./assets.ts";

const user = (content: string): ChatMessage => ({ role: "user", content });
const assistant = (content: string, more: object = {}): ChatMessage => ({
  role: "assistant",
  content,
  ...more,
});
const template = (source: string) => new ChatTemplate(source, { bos_token: "<s>", eos_token: "</s>" }, "T");
const each = (shown: string, before = "") => template(`${before}{% for m in messages %}${shown}{% endfor %}`);

function dropped(of: ChatTemplate, messages: readonly ChatMessage[], tools?: readonly unknown[]): string[] {
  return of
    .dropped(messages, of.render(messages, { tools }), { tools })
    .map(({ description }) => description);
}

const TOOL = {
  type: "function",
  function: {
    name: "book",
    description: "Book a table",
    parameters: {
      type: "object",
      properties: {
        city: { type: "string", description: "Where" },
        people: { type: "integer", description: "How many" },
      },
    },
  },
};
const call = (name: string, args: unknown) => ({ type: "function", function: { name, arguments: args } });
const CALLS = [
  user("A table in Lyon"),
  assistant("", { tool_calls: [call("book", { city: "Lyon" }), call("book", { city: "Nice" })] }),
  { role: "tool", content: '{"said": "ok \\"fine\\""}' },
  assistant("Booked."),
];
const THOUGHT = "<think>\nAdding two and two.\n</think>\n\n4";

describe("values that a template prints as Python does", () => {
  const talk = (args: unknown) => [
    user("Please look it up."),
    { role: "assistant", content: "", tool_calls: [call("look", args)] } as ChatMessage,
  ];
  const values = { tags: ["it's", 'a "b"', "é\n😀"], deep: [{ more: "x y" }, null, true, 1.5] };
  it("are there", () => {
    const whole = each("{{ m.content }}{{ m.tool_calls }}");
    const named = each(
      "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}{% endfor %}",
    );
    expect(named.render(talk(values))).toContain(`[{'more': 'x y'}, None, True, 1.5]`);
    expect(dropped(named, talk(values))).toEqual([]);
    expect(dropped(whole, talk(values))).toEqual([]);
  });

  it("and are missed where one is left out", () => {
    const some = each(
      "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments.deep }}{% endfor %}",
    );
    expect(dropped(some, talk(values))).toEqual(['message 2 (assistant): its tool call "look"']);
  });
});

describe("texts", () => {
  it.each([
    ["as they are", "{{ m.role }}:{{ m.content }};"],
    ["trimmed", "{{ m.content | trim }}\n"],
    ["as JSON", "{{ m.content | tojson }}"],
    ["as JSON in ASCII", "{{ m.content | tojson(ensure_ascii=true) }}"],
    ["inside tags", "<m>{{ m.content }}</m>"],
    ["without line breaks", "{{ m.content | replace('\\n', ' ') }}"],
  ])("may be written %s", (_, shown) => {
    const talk = [
      { role: "system", content: ' Be "brief". ' },
      user("Hi\n\nthere é \u2028 <b>you</b>"),
      assistant("  Yes\n"),
      user("<x>\nwell\n</x>"),
      assistant("4"),
      user("4"),
      assistant("4"),
    ];
    expect(dropped(each(shown), talk)).toEqual([]);
  });

  it("may be moved when they are the system's", () => {
    const moved = template(
      "{% for m in messages %}{% if m.role != 'system' %}[{% if loop.last %}{{ messages[0].content }} {% endif %}{{ m.content }}]{% endif %}{% endfor %}",
    );
    expect(dropped(moved, [{ role: "system", content: "Be brief." }, user("Hi"), assistant("Yes")])).toEqual(
      [],
    );
  });

  it("of a role that the template passes over are found, however short", () => {
    const known = each("{% if m.role in ['user', 'assistant'] %}{{ m.content }};{% endif %}");
    expect(
      dropped(known, [{ role: "developer", content: "In French." }, user("Hi"), assistant("Oui")]),
    ).toEqual(['message 1 (developer): its text "In French."']);
    expect(dropped(known, [{ role: "critic", content: "4" }, user("4"), assistant("4")])).toEqual([
      'message 1 (critic): its text "4"',
    ]);
  });

  it("that are cut, doubled in place of one another, or out of order are found", () => {
    const cut = each("{{ m.content[:20] }};");
    expect(dropped(cut, [user("Hi"), assistant("This is a long answer to it.")])).toEqual([
      'message 2 (assistant): its text "This is a long answer to it."',
    ]);
    const last = template("{% for m in messages[-2:] %}{{ m.content }};{% endfor %}");
    const twice = [
      user("Say it again, please."),
      assistant("It."),
      user("Say it again, please."),
      assistant("It."),
    ];
    expect(dropped(last, twice)).toEqual([
      'message 1 (user): its text "Say it again, please."',
      'message 2 (assistant): its text "It."',
    ]);
    const reversed = template("{% for m in messages[::-1] %}{{ m.content }};{% endfor %}");
    expect(dropped(reversed, [user("Hi"), assistant("Yes")])).toHaveLength(1);
  });

  it("are looked for by their words where a template reacts to marks", () => {
    const picky = each(
      "{% if m.content == 'What is 20 + 22, please?' %}Q: {{ m.content }}{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}",
    );
    expect(dropped(picky, [user("What is 20 + 22, please?"), assistant("42")])).toEqual([]);
    const strict = each(
      "{% if m.content | length > 24 %}{{ raise_exception('too long') }}{% endif %}{{ m.content }}",
    );
    expect(dropped(strict, [user("What is 20 + 22, pal?"), assistant("Forty and two, I say.")])).toEqual([]);
  });

  it("may hold the marks themselves", () => {
    expect(dropped(each("{{ m.content }}"), [user("\u{100000}Hi\u{100001}"), assistant("Yes")])).toEqual([]);
    const known = each("{% if m.role == 'user' %}{{ m.content }}{% endif %}");
    expect(dropped(known, [user("\u{100000}Hi\u{100001}"), assistant("Yes")])).toEqual([
      'message 2 (assistant): its text "Yes"',
    ]);
  });
});

describe("thoughts", () => {
  const keyed = [user("2+2?"), assistant("4", { reasoning_content: "Adding two and two." })];

  it("that a template has no place for are found", () => {
    expect(dropped(each("{{ m.content }}"), keyed)).toEqual([
      'message 2 (assistant): its thought "Adding two and two."',
    ]);
    const cuts = each("{{ m.content.split('</think>')[-1] }}");
    expect(dropped(cuts, [user("2+2?"), assistant(THOUGHT)])).toEqual([
      'message 2 (assistant): its thought "Adding two and two."',
    ]);
    const both = each("{{ m.reasoning_content }}{{ m.content }}");
    const two = [user("2+2?"), assistant("4", { reasoning_content: "Two.", thinking: "Twice two." })];
    expect(dropped(both, two)).toEqual(['message 2 (assistant): its thought "Twice two."']);
  });

  it("of earlier turns count too", () => {
    const lastOnly = each(
      "{{ m.role }}:{% if loop.last and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}",
    );
    const again = assistant("6", { reasoning_content: "Adding three and three." });
    expect(dropped(lastOnly, [...keyed, user("3+3?"), again])).toEqual([
      'message 2 (assistant): its thought "Adding two and two."',
    ]);
  });

  it("may be taken out of the text and written between other tags", () => {
    const rewrites = each(
      "{% if '</think>' in m.content %}[T]{{ m.content.split('</think>')[0].split('<think>')[-1] | trim }}[/T]{{ m.content.split('</think>')[-1] | trim }}{% else %}{{ m.content }}{% endif %};",
    );
    expect(dropped(rewrites, [user("2+2?"), assistant(THOUGHT)])).toEqual([]);
    expect(dropped(each("{{ m.content }}"), [user("What does <think> mean?"), assistant(THOUGHT)])).toEqual(
      [],
    );
  });
});

describe("tools and their calls", () => {
  const shownCall =
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ m.content or '' }};";

  it.each([
    ["as JSON", "{{ t | tojson }}", shownCall],
    [
      "as a signature",
      "{{ t.function.name }}({% for k, v in t.function.parameters.properties.items() %}{{ k }}: {{ v.type }}, {% endfor %}) // {{ t.function.description }}",
      shownCall,
    ],
    [
      "as tags",
      "<tool>{{ t.function | tojson(indent=2) }}</tool>",
      "{% for c in m.tool_calls or [] %}<{{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}</{{ k }}>{% endfor %}{% endfor %}{{ m.content or '' }};",
    ],
    [
      "as text",
      "{{ t | tojson }}",
      "{% for c in m.tool_calls or [] %}{{ '```' + c.function.name + '\\n' + c.function.arguments }}{% endfor %}{{ m.content or '' }};",
    ],
  ])("may be written %s", (_, tool, shown) => {
    const of = each(shown, `{% for t in tools or [] %}${tool}{% endfor %}`);
    expect(dropped(of, CALLS, [TOOL])).toEqual([]);
  });

  it("are found when they, or parts of them, are missing", () => {
    expect(dropped(each(shownCall), CALLS, [TOOL])).toEqual(['the tool "book"']);
    const bare = { function: { name: "book" } };
    expect(dropped(each(shownCall), CALLS, [bare])).toEqual(['the tool "book"']);
    expect(dropped(each("{{ m.content }}"), [user("if so"), assistant("f")], [{ name: "f" }])).toEqual([
      'the tool "f"',
    ]);
    expect(dropped(each("{{ m.content }}"), [user("Search.")], [{ type: "web_search" }])).toEqual([
      "a tool without a name",
    ]);
    expect(
      dropped(each("{{ m.content }}", "{{ tools | tojson }}"), [user("Search.")], [{ type: "web_search" }]),
    ).toEqual([]);
    const names = each(shownCall, "{% for t in tools %}{{ t.function.name }}{% endfor %}");
    expect(dropped(names, CALLS, [TOOL])).toEqual(['the tool "book"']);
    const textOnly = each("{{ m.content or '' }};", "{{ tools | tojson }}");
    expect(dropped(textOnly, CALLS, [TOOL])).toEqual(['message 2 (assistant): its tool call "book"']);
    const first = each(
      "{{ m.tool_calls[0].function | tojson if m.tool_calls else '' }}{{ m.content or '' }};",
    );
    expect(dropped(first, CALLS)).toEqual(['message 2 (assistant): its tool call "book"']);
    const orContent = each(
      "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}{{ m.content }}{% endif %};",
    );
    const both = [
      user("A table"),
      assistant("I will book it.", { tool_calls: [call("book", {})] }),
      user("ok"),
    ];
    expect(dropped(orContent, both)).toEqual(['message 2 (assistant): its text "I will book it."']);
  });
});

describe("the prompt of a request", () => {
  const known = each(
    "{% if m.role in ['system', 'user', 'assistant'] %}<{{ m.role }}>{{ m.content }}{% endif %}",
  );

  it("has developer as system where the template does not know it", () => {
    const talk = [{ role: "developer", content: "Be brief." }, user("Hi")];
    expect(renderRequest(known, talk)).toBe("<system>Be brief.<user>Hi");
    const raises = each(
      "{% if m.role not in ['system', 'user'] %}{{ raise_exception('unknown role') }}{% endif %}<{{ m.role }}>{{ m.content }}",
    );
    expect(renderRequest(raises, talk)).toBe("<system>Be brief.<user>Hi");
    expect(renderRequest(each("<{{ m.role }}>{{ m.content }}"), talk)).toBe("<developer>Be brief.<user>Hi");
  });

  it("is refused when a part of the conversation is missing in it", () => {
    expect(() => renderRequest(known, [{ role: "critic", content: "No." }, user("Hi")])).toThrow(UserError);
    expect(() => renderRequest(known, [user("Hi")], { tools: [TOOL] })).toThrow(
      /T leaves out the tool "book"\. Send the conversation without it/,
    );
  });

  it("does without earlier thoughts where that is the template's way", () => {
    const talk = [user("2+2?"), assistant("4", { reasoning_content: "Two and two." }), user("3+3?")];
    expect(() => renderRequest(known, talk)).toThrow(/its thought "Two and two\."/);
    const lastOnly = each("{% if loop.last %}{{ m.reasoning_content }}{% endif %}{{ m.content }};");
    expect(lastOnly.showsThoughts).toBe(true);
    expect(renderRequest(lastOnly, talk)).toBe("2+2?;4;3+3?;");
    const cuts = each("{{ m.content.split('</think>')[-1] | trim }};");
    expect(renderRequest(cuts, [user("2+2?"), assistant(THOUGHT), user("3+3?")])).toBe("2+2?;4;3+3?;");
  });
});

it("knows whether tools are shown", () => {
  expect(each("{{ m.content }}").showsTools).toBe(false);
  expect(each("{{ m.content }}", "{{ tools | tojson }}").showsTools).toBe(true);
});

it.each(Object.keys(builtinTemplates))("the built-in template %s loses no text", (name) => {
  const builtin = template(builtinTemplates[name as keyof typeof builtinTemplates]);
  const talk = [
    { role: "system", content: "Be brief." },
    user("Hi"),
    assistant("Yes"),
    user("So"),
    assistant("No"),
  ];
  expect(dropped(builtin, talk)).toEqual([]);
});

describe.skipIf(!hasAssets)(`real templates${hasAssets ? "" : ` (${WITHOUT})`}`, () => {
  const files = hasAssets ? readdirSync(asset("tokenizers/chat-templates")) : [];
  const load = (file: string) =>
    new ChatTemplate(
      readFileSync(asset(`tokenizers/chat-templates/${file}`), "utf8"),
      { bos_token: "<s>", eos_token: "</s>" },
      file,
    );
  const date = new Date(2024, 6, 26);
  const found = (of: ChatTemplate, messages: readonly ChatMessage[], tools?: readonly unknown[]) => {
    try {
      const text = of.render(messages, { tools, date });
      return of
        .dropped(messages, text, { tools, date })
        .map(({ kind, message }) => `${kind} ${message ?? ""}`.trim());
    } catch (error) {
      if (error instanceof UserError) return ["refused"];
      throw error;
    }
  };

  it.each(files)("%s loses none of a plain conversation's texts", (file) => {
    const plain = [user("Hi"), assistant("Yes"), user('Now "this"\n\nand <b>that</b>?'), assistant("4\n5")];
    expect([[], ["refused"]]).toContainEqual(found(load(file), plain));
  });

  it("shows what each does with thoughts, tools and roles", () => {
    const thought = [user("2+2?"), assistant("4", { reasoning_content: "Adding two and two." })];
    const earlier = [
      ...thought,
      user("3+3?"),
      assistant("6", { reasoning_content: "Adding three and three." }),
    ];
    const calls = (content: string) => [
      user("A table in Lyon"),
      assistant(content, { tool_calls: [{ id: "callAB123", ...call("book_table", { city: "Lyon" }) }] }),
      { role: "tool", tool_call_id: "callAB123", name: "book_table", content: '{"said": "ok"}' },
      assistant("Booked."),
    ];
    const tool = { ...TOOL, function: { ...TOOL.function, name: "book_table" } };
    const qwen3 = load("Qwen-Qwen3-0.6B.jinja");
    expect(found(qwen3, thought)).toEqual([]);
    expect(found(qwen3, [user("2+2?"), assistant(THOUGHT)])).toEqual([]);
    expect(found(qwen3, earlier)).toEqual(["thought 1"]);
    expect(found(qwen3, [{ role: "developer", content: "Be brief." }, ...thought])).toEqual(["text 0"]);
    for (const file of [
      "Qwen-Qwen3-0.6B",
      "Qwen-Qwen2.5-7B-Instruct",
      "Qwen3-Coder",
      "GLM-4.6",
      "MiniMax-M2",
      "meta-llama-Llama-3.1-8B-Instruct",
      "openai-gpt-oss-120b",
      "Mistral-Small-3.2-24B-Instruct-2506",
      "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
      "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    ]) {
      expect(found(load(`${file}.jinja`), calls(""), [tool]), file).toEqual([]);
    }
    expect(found(load("meta-llama-Llama-3.1-8B-Instruct.jinja"), calls("I will look."), [tool])).toEqual([
      "text 1",
    ]);
    expect(found(load("meta-llama-Llama-3.1-8B-Instruct.jinja"), thought)).toEqual(["thought 1"]);
    expect(
      found(load("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja"), [user("2+2?"), assistant(THOUGHT)]),
    ).toEqual(["thought 1"]);
    expect(found(load("microsoft-Phi-3.5-mini-instruct.jinja"), calls(""), [tool])).toEqual([
      "tool",
      "tool call 1",
      "text 2",
    ]);
    // It shows the system's message in the last user turn, which in a finished conversation is not the last.
    expect(
      found(load("mistralai-Mistral-Nemo-Instruct-2407.jinja"), [
        { role: "system", content: "S." },
        user("Hi"),
        assistant("Yes"),
      ]),
    ).toEqual(["text 0"]);
    for (const file of ["Qwen-Qwen3-0.6B", "Kimi-K2-Thinking", "openai-gpt-oss-120b"]) {
      expect(load(`${file}.jinja`).showsThoughts, file).toBe(true);
    }
  });
});
