import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { builtinTemplates } from "../../src/text/builtin-templates.ts";
import { type ChatMessage, ChatTemplate, type RenderedChat } from "../../src/text/chat-template.ts";
import { strftime } from "../../src/text/strftime.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { UserError } from "../../src/util/errors.ts";
import { loadTextGolden } from "../golden/typed-goldens.ts";
import { asset, assetJson, hasAssets, WITHOUT } from "./assets.ts";
import { byteTokenizer } from "./byte-tokenizer.ts";

const VARIABLES = { bos_token: "<s>", eos_token: "</s>", leading_bos: "<s>" };
const user = (content: string): ChatMessage => ({ role: "user", content });
const assistant = (content: string): ChatMessage => ({ role: "assistant", content });
const TALK = [user("Hi"), assistant("Hello, friend."), user("And now?"), assistant("Now this.\nAll of it.")];

const template = (source: string) => new ChatTemplate(source, VARIABLES, "T");
const said = (chat: RenderedChat) => chat.segments.filter((s) => s.assistant).map((s) => s.text);
const whole = (chat: RenderedChat) => chat.segments.map((s) => s.text).join("");

const PLAIN = `{{ bos_token }}{% for m in messages %}[{{ m.role }}]
{{ m.content | trim }}{{ eos_token if m.role == 'assistant' }}
{% endfor %}{% if add_generation_prompt %}[assistant]
{% endif %}`;

describe("ChatTemplate", () => {
  it("renders, whatever the line ends of the template", () => {
    const expected = "<s>[user]\nHi\n[assistant]\n";
    expect(template(PLAIN).render([user("Hi")], { addGenerationPrompt: true })).toBe(expected);
    const crlf = template(PLAIN.replaceAll("\n", "\r\n"));
    expect(crlf.render([user("Hi")], { addGenerationPrompt: true })).toBe(expected);
  });

  it("takes marks over comparisons and keeps the text as it is without them", () => {
    const source = `{%- for m in messages %}
  {%- if m.role == 'assistant' %}
    {% generation %}
{{ m.content }}{{ eos_token }}
    {%- endgeneration %}

  {%- else %}
<{{ m.content }}>
  {% endif %}
{%- endfor %}`;
    const chat = template(source).renderSegments(TALK);
    expect(whole(chat)).toBe(template(source).render(TALK));
    expect(said(chat)).toEqual(["Hello, friend.</s>", "Now this.\nAll of it.</s>"]);
  });

  it("finds turns by comparison", () => {
    const chat = template(PLAIN).renderSegments(TALK);
    expect(said(chat)).toEqual(["Hello, friend.</s>\n", "Now this.\nAll of it.</s>\n"]);
    expect(whole(chat)).toBe(template(PLAIN).render(TALK));
    expect(chat.promptAgrees).toBe(true);
  });

  it("finds turns when only the last one shows its thought", () => {
    const thinking = `{% for m in messages %}{% if m.role == 'assistant' %}A:{% if loop.last %}<think></think>{% endif %}{{ m.content }}<end>{% else %}U:{{ m.content }}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}`;
    expect(said(template(thinking).renderSegments(TALK))).toEqual([
      "Hello, friend.<end>",
      "<think></think>Now this.\nAll of it.<end>",
    ]);
  });

  it("says when the prompt for an answer differs from what precedes one", () => {
    const opened = `{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<end>' }}{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}`;
    const chat = template(opened).renderSegments(TALK);
    expect(said(chat)).toEqual(["Hello, friend.<end>", "Now this.\nAll of it.<end>"]);
    expect(chat.promptAgrees).toBe(false);
  });

  it("finds answers where the system prompt moves with the conversation", () => {
    const moving = `{% for m in messages %}{% if m.role == 'user' %}[INST]{% if loop.index0 >= messages | length - 2 and messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}{{ m.content }}[/INST]{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% endif %}{% endfor %}`;
    const chat = template(moving).renderSegments([{ role: "system", content: "S" }, ...TALK]);
    expect(said(chat)).toEqual(["Hello, friend.</s>", "Now this.\nAll of it.</s>"]);
  });

  it("keeps to itself an EOS that closes only the whole", () => {
    const closing = `{% for m in messages %}{{ m.role + ':' + m.content + '<|end|>' }}{% endfor %}{{ 'assistant:' if add_generation_prompt else eos_token }}`;
    expect(said(template(closing).renderSegments(TALK))).toEqual([
      "Hello, friend.<|end|>",
      "Now this.\nAll of it.<|end|></s>",
    ]);
  });

  it("refuses to guess", () => {
    const silent = "{% for m in messages %}{{ m.role }};{% endfor %}";
    expect(() => template(silent).renderSegments(TALK)).toThrow(
      /loses its answer.*--chat-template.*--train-on all/s,
    );
    const reversed = "{% for m in messages[::-1] %}{{ m.content }};{% endfor %}";
    expect(() => template(reversed).renderSegments(TALK)).toThrow(UserError);
  });

  it("reports a template's own refusal, syntax errors and text joined with objects", () => {
    expect(() => template("{{ raise_exception('roles must alternate') }}").render(TALK)).toThrow(
      "T refuses this conversation: roles must alternate",
    );
    expect(() => template("{% if %}")).toThrow(/T: not a Jinja template/);
    expect(() => template("{{ 'x' + messages[0].args }}").render([{ role: "user", args: { a: 1 } }])).toThrow(
      /can only concatenate str \(not "dict"\) to str/,
    );
    expect(() => template("{% for i in range(100000000) %}{% endfor %}").render(TALK)).toThrow(/range/);
  });

  it("tells templates the date that it is given", () => {
    const date = new Date(2024, 6, 5, 13, 4);
    expect(template("{{ strftime_now('%d %b %Y') }}").render([], { date })).toBe("05 Jul 2024");
    expect(strftime(date, "%A %e %B %y %I:%M %p %Q %%")).toBe("Friday  5 July 24 01:04 PM %Q %");
  });

  it("belongs to a tokenizer", () => {
    expect(ChatTemplate.of(byteTokenizer(), undefined)).toBeUndefined();
    const own = byteTokenizer({ chatTemplate: "{{ bos_token }}" });
    expect(ChatTemplate.of(own, undefined)?.render([])).toBe("<s>");
    expect(ChatTemplate.of(own, "{{ eos_token }}")?.render([])).toBe("</s>");
  });
});

describe("built-in templates", () => {
  const render = (name: keyof typeof builtinTemplates) =>
    ChatTemplate.of(byteTokenizer(), builtinTemplates[name])!;

  it("chatml", () => {
    const chat = render("chatml").renderSegments(TALK.slice(0, 2));
    expect(whole(chat)).toBe(
      "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello, friend.<|im_end|>\n",
    );
    expect(said(chat)).toEqual(["Hello, friend.<|im_end|>"]);
  });

  it("alpaca", () => {
    const chat = render("alpaca").renderSegments(TALK.slice(0, 2));
    expect(whole(chat)).toBe("<s>### Instruction:\nHi\n\n### Response:\nHello, friend.</s>");
    expect(said(chat)).toEqual(["Hello, friend.</s>"]);
  });

  it.each(["chatml", "alpaca"] as const)("%s asks with the text that precedes an answer", (name) => {
    const full = render(name).render(TALK);
    expect(full.startsWith(render(name).render(TALK.slice(0, 3), { addGenerationPrompt: true }))).toBe(true);
  });
});

describe("real templates", () => {
  const golden = loadTextGolden();
  const hash = (text: string) => createHash("sha256").update(text).digest("hex");
  /** Python renders all of it, the Jinja engine only some conversations: an object's keys are integers. */
  const PARTLY = /ByteDance-Seed-OSS/;

  for (const [path, conversations] of Object.entries(golden.templates)) {
    it.skipIf(!hasAssets)(`${path} renders as in the reference (${WITHOUT} when skipped)`, () => {
      const { date_string, ...tokens } = golden.templateVariables;
      const chatTemplate = new ChatTemplate(readFileSync(asset(path), "utf8"), tokens, path);
      for (const [name, expected] of Object.entries(conversations)) {
        const { messages, addGenerationPrompt } = golden.conversations[name]!;
        const render = () =>
          chatTemplate.render(messages as ChatMessage[], { addGenerationPrompt, variables: { date_string } });
        if (expected.skipped !== undefined) continue;
        if (expected.refused !== undefined) {
          expect(render, name).toThrow(UserError);
          continue;
        }
        let text: string;
        try {
          text = render();
        } catch (error) {
          if (PARTLY.test(path) && error instanceof UserError) continue;
          throw error;
        }
        expect([...text].length, name).toBe(expected.length);
        expect(hash(text), name).toBe(expected.sha256);
      }
    });
  }

  /** These cannot be masked: the template itself fails without tools or documents, or wants a turn's form of its own. */
  const REFUSED = /command-r-plus-tool_use|Hermes-[23]|firefunction/;
  const files = hasAssets
    ? readdirSync(asset("tokenizers/chat-templates")).filter((name) => name.endsWith(".jinja"))
    : [];
  it.skipIf(!hasAssets)(`of every one the assistant's words are found (${WITHOUT} when skipped)`, () => {
    expect(files.length).toBeGreaterThanOrEqual(37);
    for (const file of files) {
      const source = readFileSync(asset(`tokenizers/chat-templates/${file}`), "utf8");
      const chatTemplate = new ChatTemplate(source, { bos_token: "<s>", eos_token: "</s>" }, file);
      const segments = () => chatTemplate.renderSegments(TALK, { date: new Date(2024, 6, 26) });
      if (REFUSED.test(file)) {
        expect(segments, file).toThrow(UserError);
        continue;
      }
      const chat = segments();
      expect(whole(chat), file).toBe(chatTemplate.render(TALK, { date: new Date(2024, 6, 26) }));
      const turns = said(chat);
      expect(turns.length, file).toBe(2);
      expect(turns[0], file).toContain("Hello, friend.");
      expect(turns[1], file).toContain("Now this.\nAll of it.");
      expect(
        chat.segments.some((s) => !s.assistant && /Hello, friend\.|All of it\./.test(s.text)),
        file,
      ).toBe(false);
      for (const turn of turns) expect(/Hi\b|And now/.test(turn), file).toBe(false);
    }
  });

  for (const [path, conversations] of Object.entries(golden.chat)) {
    it.skipIf(!hasAssets)(`${path} gives the reference's ids (${WITHOUT} when skipped)`, () => {
      const base = path.includes("qwen3") ? "qwen3" : "llama3.2";
      const tokenizer = new Tokenizer({
        name: base,
        tokenizer: assetJson(`tokenizers/${base}/derived/tokenizer.json`),
        tokenizerConfig: assetJson(path),
      });
      const chatTemplate = ChatTemplate.of(tokenizer, undefined)!;
      for (const [name, expected] of Object.entries(conversations)) {
        const { messages, addGenerationPrompt } = golden.conversations[name]!;
        const variables = { date_string: golden.templateVariables.date_string };
        const text = chatTemplate.render(messages as ChatMessage[], { addGenerationPrompt, variables });
        expect(tokenizer.encode(text, { addSpecialTokens: false }), name).toEqual(expected.ids);
      }
    });
  }
});
