// Conversations: history reaches the model, adapters take turns, base and tuned answer the same history, and the oldest
// turns go when the context is full.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { inColumns } from "../../src/cli/columns.ts";
import { readAdapter } from "../../src/formats/peft.ts";
import { Conversation } from "../../src/generate/conversation.ts";
import { GenerationEngine } from "../../src/generate/engine.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { type AdapterSet, loadAdapterSet } from "../../src/models/adapter-set.ts";
import { type OpenedModel, openModel } from "../../src/models/open-model.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";

const root = scratchFolder();
const source =
  "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
let backend: Backend;
let model: OpenedModel;
let engine: GenerationEngine;
let adapters: Map<string, AdapterSet>;
let rendered: string[];

function converse(context = 128, system?: string): Conversation {
  const template = new ChatTemplate(source, {}, "test");
  const render = template.render.bind(template);
  template.render = (messages, options) => {
    const text = render(messages, options);
    rendered.push(text);
    return text;
  };
  const { tokenizer } = model;
  return new Conversation({
    engine,
    tokenizer,
    template,
    adapters,
    sampling: greedy,
    maxNewTokens: 8,
    context,
    system,
  });
}

beforeAll(async () => {
  backend = await openBackend("cpu", { precision: "fp32", threads: 1 }).catch(() => openBackend("reference"));
  const folder = writeTinyModel(join(root, "model"), "qwen3");
  model = await openModel(backend, folder);
  const path = await writeRandomAdapter(join(root, "tuned"), folder, {}, 0.4);
  adapters = new Map([["tuned", loadAdapterSet(model.loaded.decoder, await readAdapter(path))]]);
  engine = new GenerationEngine(model.loaded.decoder, { slots: 2, capacity: 128 });
  rendered = [];
});
afterAll(async () => {
  await engine.close();
  for (const set of adapters.values()) set.free();
  await model.close();
  backend.close();
});

describe("conversation", () => {
  it("remembers what was said and answers with the selected adapter", async () => {
    const conversation = converse(128, "brief");
    expect(conversation.adapter).toBe("tuned");
    const first = await conversation.say("one");
    await conversation.say("two");
    expect(rendered.at(-1)).toBe(`s:brief\nu:one\na:${first.text}\nu:two\na:`);
    conversation.reset();
    const { base, tuned } = await conversation.sayBoth("one");
    expect(tuned.text).toBe(first.text);
    expect(base.text).not.toBe(first.text);
    conversation.reset();
    conversation.select("base");
    expect((await conversation.say("one")).text).toBe(base.text);
    expect(() => conversation.select("none")).toThrow(/there are base, tuned/);
  });

  it("forgets its oldest turns when they no longer fit, and refuses what never will", async () => {
    const conversation = converse(48);
    for (let i = 0; i < 6; i++) await conversation.say(`message ${i}`);
    expect(conversation.forgotten).toBeGreaterThan(2);
    await expect(conversation.say("x".repeat(60))).rejects.toThrow(/at most 40 fit/);
  });
});

describe("columns", () => {
  it("stand beside each other, or under each other where there is no room", () => {
    const both = [
      { title: "base", text: `one two three ${"x".repeat(40)}` },
      { title: "tuned", text: "four\nfive" },
    ];
    const lines = inColumns(both, 60).split("\n");
    expect(lines[0]).toMatch(/^base +\| tuned$/);
    expect(lines.every((line) => line.length <= 60)).toBe(true);
    expect(lines[2]).toMatch(/^one two three +\| four$/);
    expect(inColumns(both, 40)).toContain("[base]\none two");
  });
});
