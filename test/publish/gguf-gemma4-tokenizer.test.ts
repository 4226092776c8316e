// Gemma 4's kind of tokenizer in GGUF: BPE over pieces of text where "▁" stands for a space, with bytes as a last resort.
// llama.cpp has a name of its own for it, and merges in place of scores; where node-llama-cpp is there, its ids beside ours.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { openFile } from "../../src/formats/disk.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { tokenizerOfGguf } from "../../src/models/gguf/tokenizer.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { writeFamily } from "./families.ts";
import { llama, openLlama } from "./llama.ts";
import { scratchFolder } from "./tiny-model.ts";

const root = scratchFolder();
const special = ["<bos>", "<eos>", "<|turn>", "<|channel>", '<|"|>'];
const merges = ["t h", "th e", "▁ the", "▁ t", "a n", "an d", "▁ and", "▁ ▁", "\n \n"].map((merge) =>
  merge.split(" "),
);
const letters = [..."▁abcdefghilmnoprstuwyT,.!", "\n"];
const vocabularySize = 320;

function tokenizerJson() {
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
  );
  const pieces = [...special, ...bytes, ...letters, ...merges.map((parts) => parts.join(""))];
  const added = special.map((content, id) => ({
    ...{ id, content, special: true, single_word: false, lstrip: false, rstrip: false, normalized: false },
  }));
  return {
    ...{ version: "1.0", added_tokens: added },
    normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" },
    pre_tokenizer: {
      ...{ type: "Split", pattern: { String: " " }, behavior: "MergedWithPrevious", invert: false },
    },
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
      ],
    },
    model: {
      ...{ type: "BPE", byte_fallback: true, fuse_unk: true, unk_token: null, dropout: null },
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges,
    },
  };
}

async function exported() {
  const change = { vocab_size: vocabularySize };
  const model = writeFamily(root, "gemma4", change);
  const json = tokenizerJson();
  writeFileSync(join(model, "tokenizer.json"), JSON.stringify(json));
  const tokenizerConfig = { bos_token: "<bos>", eos_token: "<eos>" };
  writeFileSync(join(model, "tokenizer_config.json"), JSON.stringify(tokenizerConfig));
  const out = `${model}.gguf`;
  await exportGguf(openReference(), { model, out, type: "f32", adapterOnly: false, modelfile: false });
  return { out, tokenizer: new Tokenizer({ name: "pieces", tokenizer: json as never, tokenizerConfig }) };
}

it("is written with llama.cpp's name for it, its merges, and thoughts' tokens shown", async () => {
  const { out } = await exported();
  const file = await openGguf(await openFile(out));
  const value = (key: string) => file.metadata.get(`tokenizer.ggml.${key}`)?.value;
  expect(value("model")).toBe("gemma4");
  expect(value("merges")).toContain("▁ the");
  const types = value("token_type") as number[];
  expect(special.map((_, id) => types[id])).toEqual([3, 3, 3, 4, 4]);
  expect(types[special.length]).toBe(6);
  await file.close();
});

it("comes back from the file with the same ids", async () => {
  const { out, tokenizer } = await exported();
  const file = await openGguf(await openFile(out));
  const read = tokenizerOfGguf(file);
  await file.close();
  const back = new Tokenizer({
    name: "back",
    tokenizer: read.tokenizer as never,
    tokenizerConfig: read.tokenizerConfig as never,
  });
  for (const text of [
    "the cat and the hat",
    " and  the\n\nthe, Tom.",
    "Zürich ☃ the\n",
    "   the",
    "<|turn>the<eos>",
  ]) {
    expect([...back.encode(text)], text).toEqual([...tokenizer.encode(text)]);
    expect(back.decode(back.encode(text)), text).toBe(tokenizer.decode(tokenizer.encode(text)));
  }
});

it.skipIf(!llama.present)(`gives llama.cpp's ids (${llama.reason})`, async () => {
  const { out, tokenizer } = await exported();
  const other = await openLlama(out);
  for (const text of ["the cat and the hat", " and  the\n\nthe, Tom.", "Zürich ☃ the\n", "   the"])
    expect(other.tokenize(text), JSON.stringify(text)).toEqual([
      ...tokenizer.encode(text, { addSpecialTokens: false }),
    ]);
  await other.close();
});
