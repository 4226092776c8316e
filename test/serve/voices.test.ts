// How a request is spoken to its model: through the template and tokenizer that its adapter was trained with, with nothing
// of the conversation left out. The real threads, without an engine.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { readModelConfig } from "../../src/models/index.ts";
import type { Preparers } from "../../src/serve/preparers.ts";
import { OverlaidDecoder, overlayOf } from "../../src/text/overlaid-decoder.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";
import { byteTokenizer, byteTokenizerFiles } from "../text/byte-tokenizer.ts";

const module = new URL("../../dist/serve/preparers.js", import.meta.url);
if (!existsSync(module)) throw new Error("dist/ is missing: run `npm run build` first, as `npm test` does.");
const { Preparers: Threads } = (await import(module.href)) as typeof import("../../src/serve/preparers.ts");

type Json = Record<string, unknown>;
const root = scratchFolder();
const model = writeTinyModel(join(root, "model"), "llama-gqa-tied-llama3");
const tokenizer = byteTokenizer();
const config = readModelConfig(JSON.parse(readFileSync(join(model, "config.json"), "utf8")));
const base = { config, vocabularySize: config.vocabularySize };
const limits = { context: 2000, maxTokens: 50 };
const known =
  '{% for m in messages %}{% if m.role in ["system", "user", "assistant"] %}[{{ m.role }}]{{ m.content }}{% for call in m.tool_calls or [] %}{% for key, value in call.function.arguments | items %}<{{ key }}={{ value }}>{% endfor %}{% endfor %}{% endif %}{% endfor %}';
writeFileSync(join(model, "chat_template.jinja"), known);

const started: Preparers[] = [];
afterAll(() => Promise.all(started.map((each) => each.close())));
async function start(chatTemplate?: string) {
  const { preparers } = await Threads.start({ model, modelName: "base", chatTemplate });
  started.push(preparers);
  return preparers;
}
async function textOf(preparers: Preparers, body: Json): Promise<string> {
  const bytes = new TextEncoder().encode(JSON.stringify({ model: "base", ...body }));
  const { prompts } = await preparers.prepare("chat", bytes, limits, new AbortController().signal);
  return tokenizer.decode([...prompts[0]!]);
}
const talk = [{ role: "user", content: "hi" }];

describe("a request's conversation", () => {
  it("is rendered as its adapter was trained, a flag first", async () => {
    const path = await writeRandomAdapter(join(root, "poet"), model);
    writeFileSync(join(path, "chat_template.jinja"), "{% for m in messages %}~{{ m.content }}{% endfor %}");
    const preparers = await start();
    const { notes } = await preparers.readAdapter(path, base);
    expect(notes.join()).toContain("chat template");
    preparers.learn("poet", path);
    preparers.learn("plain", await writeRandomAdapter(join(root, "plain"), model));
    const texts = await Promise.all(
      ["base", "poet", "plain"].map((name) => textOf(preparers, { model: name, messages: talk })),
    );
    expect(texts).toEqual(["[user]hi", "~hi", "[user]hi"]);
    await expect(textOf(preparers, { model: "nobody", messages: talk })).rejects.toMatchObject({
      status: 404,
    });
    // Loaded anew under its name, it brings what is there now.
    writeFileSync(join(path, "chat_template.jinja"), "{% for m in messages %}#{{ m.content }}{% endfor %}");
    preparers.learn("poet", path);
    expect(await textOf(preparers, { model: "poet", messages: talk })).toBe("#hi");

    const flag = join(root, "flag.jinja");
    writeFileSync(flag, "{% for m in messages %}!{{ m.content }}{% endfor %}");
    const flagged = await start(flag);
    flagged.learn("poet", path);
    expect(await textOf(flagged, { model: "poet", messages: talk })).toBe("!hi");
  });

  it("loses nothing: developer becomes system, the rest is refused", async () => {
    const preparers = await start();
    const rule = (role: string) => ({ messages: [{ role, content: "Be brief." }, ...talk] });
    expect(await textOf(preparers, rule("developer"))).toBe("[system]Be brief.[user]hi");
    await expect(textOf(preparers, rule("narrator"))).rejects.toThrow(/leaves out .*Be brief/);
    const tools = [{ type: "function", function: { name: "weather", parameters: {} } }];
    await expect(textOf(preparers, { messages: talk, tools })).rejects.toThrow(/weather/);
    expect(await textOf(preparers, { messages: talk, tools, tool_choice: "none" })).toBe("[user]hi");
  });

  it("takes the calls of an answer back as they were given: arguments as JSON text, keys that are null", async () => {
    const preparers = await start();
    const answered = (given: unknown) => ({
      messages: [
        ...talk,
        {
          role: "assistant",
          content: "Looking.",
          refusal: null,
          tool_calls: [{ id: "call_1", type: "function", function: { name: "look", arguments: given } }],
        },
        { role: "user", content: "and?" },
      ],
    });
    // The template above shows a call by its arguments alone.
    const named = `${known.replace("<{{ key }}", "{{ call.function.name }}<{{ key }}")}`;
    const template = join(root, "named.jinja");
    writeFileSync(template, named);
    const shown = await start(template);
    const asText = await textOf(shown, answered('{"city": "Bern", "days": 3}'));
    expect(asText).toBe("[user]hi[assistant]Looking.look<city=Bern>look<days=3>[user]and?");
    expect(await textOf(shown, answered({ city: "Bern", days: 3 }))).toBe(asText);
    await expect(textOf(preparers, answered('{"city": "Bern"}'))).rejects.toThrow(/look/);
  });
});

describe("an adapter's own tokenizer", () => {
  const files = byteTokenizerFiles();
  const json = files.tokenizer as Json & { added_tokens: Json[] };
  const added = (id: number, content: string, special: boolean) => ({
    ...json.added_tokens[0],
    id,
    content,
    special,
  });
  const own = {
    ...json,
    added_tokens: [...json.added_tokens, added(259, "<call>", false), added(260, "<over>", true)],
  };

  it("is used for its requests, its end of text too", async () => {
    const path = await writeRandomAdapter(join(root, "own"), model);
    mkdirSync(path, { recursive: true });
    writeFileSync(join(path, "tokenizer.json"), JSON.stringify(own));
    writeFileSync(
      join(path, "tokenizer_config.json"),
      JSON.stringify({ bos_token: "<s>", eos_token: "<over>" }),
    );
    const preparers = await start();
    const { speech } = await preparers.readAdapter(path, base);
    expect(speech).toMatchObject({ eosIds: [260], decoding: undefined });
    expect(speech.overlay.map(({ id }) => id)).toEqual([259, 260]);
    preparers.learn("own", path);
    const bytes = (name: string) =>
      new TextEncoder().encode(JSON.stringify({ model: name, prompt: "a<call>b" }));
    const signal = new AbortController().signal;
    const idsOf = async (name: string) =>
      [...(await preparers.prepare("completion", bytes(name), limits, signal)).prompts[0]!].length;
    expect(await idsOf("own")).toBe(1 + 3);
    expect(await idsOf("base")).toBe(1 + 8);
  });

  it("with more tokens than the model has is refused", async () => {
    const path = await writeRandomAdapter(join(root, "larger"), model);
    const larger = { ...own, added_tokens: [...own.added_tokens, added(264, "<more>", true)] };
    writeFileSync(join(path, "tokenizer.json"), JSON.stringify(larger));
    const preparers = await start();
    await expect(preparers.readAdapter(path, base)).rejects.toThrow(/265 tokens.*264/);
  });

  it("decodes through the base's where only added tokens differ", () => {
    const other = new Tokenizer({ ...files, tokenizer: own });
    const overlay = overlayOf(tokenizer, other)!;
    const decoder = new OverlaidDecoder(tokenizer, overlay, other.eosIds);
    const ids = other.encode("é<call> a<over><s>漢<call>");
    for (const skipSpecialTokens of [true, false])
      for (let end = 0; end <= ids.length; end++)
        expect(decoder.decode(ids.slice(0, end), { skipSpecialTokens })).toBe(
          other.decode(ids.slice(0, end), { skipSpecialTokens }),
        );
    expect(decoder.tokenOf(259)).toBe("<call>");
    // The other way round: what the base has and the adapter has not.
    const fewer = overlayOf(other, tokenizer)!;
    expect(new OverlaidDecoder(other, fewer, tokenizer.eosIds).decode(ids)).toBe(tokenizer.decode(ids));
    expect(overlayOf(tokenizer, tokenizer)).toEqual([]);
    const vocab = { ...(json.model as { vocab: Json }).vocab };
    [vocab.a, vocab.b] = [vocab.b, vocab.a];
    const swapped = new Tokenizer({
      ...files,
      tokenizer: { ...json, model: { ...(json.model as Json), vocab } },
    });
    expect(overlayOf(tokenizer, swapped)).toBeUndefined();
    // What is sent then decodes as the whole.
    expect(new Tokenizer(structuredClone(swapped.decodingFiles)).decode(ids)).toBe(swapped.decode(ids));
  });

  it("keeps the spaces of decoders that drop the first", () => {
    const vocab = { "<unk>": 0, "▁a": 1, "▁b": 2, c: 3 };
    const sentencePiece = (more: Json[]) =>
      new Tokenizer({
        name: "pieces",
        tokenizer: {
          added_tokens: [added(0, "<unk>", true), ...more],
          normalizer: null,
          pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: true },
          post_processor: null,
          decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: true },
          model: { type: "BPE", vocab, merges: [], unk_token: "<unk>" },
        },
        tokenizerConfig: { eos_token: "<unk>" },
      });
    const [base, with4] = [sentencePiece([]), sentencePiece([added(4, "<x>", false)])];
    const decoder = new OverlaidDecoder(base, overlayOf(base, with4)!, with4.eosIds);
    for (const ids of [
      [1, 2, 4, 1, 3],
      [4, 1, 3],
      [1, 4, 4, 2],
    ])
      expect(decoder.decode(ids)).toBe(with4.decode(ids));
  });
});
