// llama.cpp's name for a tokenizer's first split: by its pattern, by what it does to texts, or a refusal.

import { describe, expect, it } from "vitest";
import type { JsonObject } from "../../src/formats/json.ts";
import { splitName } from "../../src/models/gguf/split.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { byteTokenizerFiles } from "../text/byte-tokenizer.ts";

/** A tokenizer of bytes with merges, whose text is first split at matches of `pattern`. */
function splitting(pattern: string, merges: readonly (readonly [string, string])[]): [Tokenizer, JsonObject] {
  const files = byteTokenizerFiles();
  const bytes = files.tokenizer as JsonObject & { readonly model: JsonObject };
  const vocab = { ...(bytes.model.vocab as Record<string, number>) };
  for (const pair of merges) vocab[pair.join("")] = Math.max(...Object.values(vocab)) + 1;
  const pretokenizers = [
    { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false },
    { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
  ];
  const json = {
    ...bytes,
    model: { ...bytes.model, vocab, merges },
    pre_tokenizer: { type: "Sequence", pretokenizers },
  } as unknown as JsonObject;
  return [new Tokenizer({ ...files, tokenizer: json }), json];
}

const SPACE = "\u0120";

describe("the name of a split", () => {
  it("is the nearest one's where ordinary text gets the same tokens, and the difference is told", () => {
    const [tokenizer, json] = splitting(" ?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+|[ \\t\\r]+|\\n+", [
      [SPACE, "s"],
    ]);
    const warnings: string[] = [];
    expect(splitName(tokenizer, json, (message) => warnings.push(message))).toBe("gpt-2");
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain("others on several spaces before a word");
  });

  it("is told without a difference where there is none", () => {
    const [tokenizer, json] = splitting(" ?\\p{L}+|\\p{N}|[^\\p{L}\\p{N}]", [["t", "h"]]);
    const warnings: string[] = [];
    expect(splitName(tokenizer, json, (message) => warnings.push(message))).toBe("gpt-2");
    expect(warnings[0]).not.toContain("others on");
  });

  it("is refused where every named split gives other tokens", () => {
    const [tokenizer, json] = splitting("\\p{L}+ ?", [["a", SPACE]]);
    expect(() => splitName(tokenizer, json)).toThrow(/no split that it has gives the same tokens/);
  });
});
