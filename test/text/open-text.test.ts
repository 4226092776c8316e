// From a model's folder, an adapter's folder and flags to tokenizer and template: what wins, and what is said.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { openText } from "../../src/text/open-text.ts";
import { byteTokenizerFiles } from "./byte-tokenizer.ts";

const root = mkdtempSync(join(tmpdir(), "lowrank-open-text-"));
afterAll(() => rmSync(root, { recursive: true }));

let count = 0;
function folder(files: Readonly<Record<string, unknown>>): string {
  const path = join(root, `f${++count}`);
  mkdirSync(path);
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(path, name, ".."), { recursive: true });
    writeFileSync(join(path, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return path;
}

const { tokenizer, tokenizerConfig } = byteTokenizerFiles();
const modelFolder = (more: Readonly<Record<string, unknown>> = {}) =>
  folder({
    "tokenizer.json": tokenizer,
    "tokenizer_config.json": tokenizerConfig,
    "chat_template.jinja": "M",
    ...more,
  });
const rendered = async (...sources: Parameters<typeof openText>) =>
  (await openText(...sources)).template?.render([{ role: "user", content: "x" }]);

describe("the chat template", () => {
  const model = modelFolder();
  const file = join(folder({ "flag.jinja": "F" }), "flag.jinja");

  it.each([
    ["a file", { "chat_template.jinja": "A" }],
    [
      "text in tokenizer_config.json",
      { "tokenizer_config.json": { ...(tokenizerConfig as object), chat_template: "A" } },
    ],
    [
      "a list in tokenizer_config.json",
      {
        "tokenizer_config.json": {
          ...(tokenizerConfig as object),
          chat_template: [{ name: "default", template: "A" }],
        },
      },
    ],
    [
      "a file beside a list",
      {
        "chat_template.jinja": "A",
        "tokenizer_config.json": { ...(tokenizerConfig as object), chat_template: "B" },
      },
    ],
  ])("of an adapter, %s, counts before the model's, and a flag before it", async (_, files) => {
    const adapter = folder(files);
    const text = await openText({ model, adapter });
    expect(text.template?.render([])).toBe("A");
    expect(text).toMatchObject({
      templateFrom: "adapter",
      tokenizerFrom: "model",
      templates: { default: "A" },
    });
    expect(text.notes).toEqual([`chat template: the one in ${adapter}, in place of the model's`]);
    const flagged = await openText({ model, adapter, chatTemplate: file });
    expect(flagged.template?.render([])).toBe("F");
    expect(flagged.templateFrom).toBe("flag");
    expect(flagged.notes).toEqual([
      `chat template: --chat-template ${file}, in place of the one in ${adapter}`,
    ]);
    expect(new Set([text.hash, flagged.hash, (await openText({ model })).hash]).size).toBe(3);
  });

  it("is the model's where the adapter has none or the same, in silence", async () => {
    for (const adapter of [folder({}), folder({ "chat_template.jinja": "M" })]) {
      expect(await openText({ model, adapter })).toMatchObject({ templateFrom: "model", notes: [] });
    }
    const bare = folder({ "tokenizer.json": tokenizer, "tokenizer_config.json": tokenizerConfig });
    expect(await openText({ model: bare, adapter: folder({}) })).toMatchObject({
      template: undefined,
      templateFrom: undefined,
      templates: {},
    });
    expect(await rendered({ model: bare, adapter: folder({ "chat_template.jinja": "A" }) })).toBe("A");
  });

  it("may be one of several, which tools and names choose from", async () => {
    const named = modelFolder({
      "additional_chat_templates/tool_use.jinja": "T",
      "additional_chat_templates/rag.jinja": "R",
    });
    const { template } = await openText({ model: named });
    expect(template?.render([])).toBe("M");
    expect(template?.render([], { tools: [{}] })).toBe("T");
    expect(template?.render([], { tools: [] })).toBe("M");
    expect(await rendered({ model: named, chatTemplate: "rag" })).toBe("R");
    await expect(openText({ model: named, chatTemplate: "rug" })).rejects.toThrow(
      /this model's own are rag, tool_use\. Did you mean rag\?/,
    );
  });

  it("of ours is written so that other tools render it", async () => {
    const text = await openText({ model, chatTemplate: "chatml" });
    expect(text.templates.default).toMatch(/^\{\{- bos_token -\}\}\n/);
    expect(text.template?.render([{ role: "user", content: "Hi" }])).toBe(
      "<s><|im_start|>user\nHi<|im_end|>\n",
    );
    const plain = structuredClone(tokenizer) as { post_processor: unknown };
    plain.post_processor = null;
    const without = modelFolder({ "tokenizer.json": plain });
    expect((await openText({ model: without, chatTemplate: "chatml" })).templates.default).not.toContain(
      "bos",
    );
  });
});

describe("the tokenizer", () => {
  it("of an adapter counts file by file, and is said once", async () => {
    const model = modelFolder({ "generation_config.json": { eos_token_id: [1] } });
    const adapter = folder({ "tokenizer_config.json": { bos_token: "<s>", eos_token: "<|im_end|>" } });
    const text = await openText({ model, adapter });
    expect(text.tokenizer.eosIds).toEqual([2, 1]);
    expect(text).toMatchObject({
      tokenizerFrom: "adapter",
      templateFrom: "model",
      templates: { default: "M" },
    });
    expect(text.notes).toEqual([`tokenizer: the one in ${adapter}, in place of the model's`]);
    const whole = folder({
      "tokenizer.json": tokenizer,
      "tokenizer_config.json": { eos_token: "<|im_end|>" },
      "chat_template.jinja": "A",
    });
    const both = await openText({ model, adapter: whole });
    expect(both.notes).toHaveLength(2);
    expect(both.template?.render([])).toBe("A");
  });

  it("is the model's where the adapter brings the same, and is lent from one to the next", async () => {
    const model = modelFolder();
    const adapter = folder({ "tokenizer.json": tokenizer, "tokenizer_config.json": tokenizerConfig });
    const base = await openText({ model });
    const text = await openText({ model, adapter }, base);
    expect(text).toMatchObject({ tokenizerFrom: "model", notes: [] });
    expect(text.tokenizer).toBe(base.tokenizer);
    const other = folder({ "tokenizer_config.json": { eos_token: "<|im_end|>" } });
    expect((await openText({ model, adapter: other }, base)).tokenizer.eosId).toBe(2);
    expect((await openText({ model, eosToken: "<|im_end|>" }, base)).tokenizer.eosId).toBe(2);
  });

  it("ends and pads with the tokens that flags name", async () => {
    const model = modelFolder();
    const { tokenizer: named } = await openText({ model, eosToken: "<|im_end|>", padToken: "<s>" });
    expect(named).toMatchObject({ eosId: 2, eosIds: [2], padId: 0 });
    expect(named.specialTokens).toMatchObject({ eos_token: "<|im_end|>", pad_token: "<s>" });
    await expect(openText({ model, eosToken: "<|end|>" })).rejects.toThrow(
      /--eos-token "<\|end\|>": this is no token of/,
    );
    await expect(openText({ model, padToken: "two words" })).rejects.toThrow(/--pad-token/);
  });
});
