// Added tokens of every kind against Rust's tokenizers over random texts (tools/golden/added_tokens.py).

import { describe, expect, it } from "vitest";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { readGolden } from "../golden/load-golden.ts";
import { byteTokenizerFiles } from "./byte-tokenizer.ts";

interface Golden {
  readonly vocab: Readonly<Record<string, number>>;
  readonly merges: readonly (readonly [string, string])[];
  readonly cases: readonly {
    readonly normalizer: unknown;
    readonly preTokenizer: unknown;
    readonly ignoreMerges: boolean;
    readonly added: readonly Readonly<Record<string, unknown>>[];
    readonly texts: readonly (readonly [string, readonly number[]])[];
  }[];
}

const golden = readGolden<Golden>("added-tokens.json");

describe("added tokens", () => {
  it.each(golden.cases.map((each, i) => [i, each] as const))("of tokenizer %i", (_, each) => {
    const tokenizer = new Tokenizer({
      name: "t",
      tokenizer: {
        ...{ version: "1.0", truncation: null, padding: null, post_processor: null, decoder: null },
        added_tokens: each.added,
        normalizer: each.normalizer,
        pre_tokenizer: each.preTokenizer,
        model: {
          ...{ type: "BPE", dropout: null, unk_token: "<unk>", continuing_subword_prefix: null },
          ...{ end_of_word_suffix: null, fuse_unk: false, byte_fallback: false },
          ignore_merges: each.ignoreMerges,
          vocab: golden.vocab,
          merges: golden.merges,
        },
      },
      tokenizerConfig: { eos_token: "a" },
    });
    for (const [text, ids] of each.texts) expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
  });

  it("that are whole words stay letters inside longer ones", () => {
    const files = byteTokenizerFiles();
    const json = files.tokenizer as { added_tokens: unknown[] };
    const flags = { single_word: true, lstrip: false, rstrip: false, normalized: false, special: false };
    const added = [...json.added_tokens, { id: 300, content: "dog", ...flags }];
    const tokenizer = new Tokenizer({ ...files, tokenizer: { ...json, added_tokens: added } });
    const ids = tokenizer.encode("dogs and a dog", { addSpecialTokens: false });
    expect(ids).toHaveLength(12);
    expect(ids.at(-1)).toBe(300);
    expect(ids.filter((id) => id === 300)).toHaveLength(1);
    expect(tokenizer.idOf("dog")).toBe(300);
    expect(tokenizer.tokenOf(300)).toBe("dog");
  });
});
