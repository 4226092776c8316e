// Byte-pair encoding against Rust's tokenizers: every way to cut words, hostile texts (tools/golden/bpe_words.py); and
// that nothing which is remembered of earlier texts changes an id.

import { describe, expect, it } from "vitest";
import { readMerges } from "../../src/text/bpe-merges.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { readGolden } from "../golden/load-golden.ts";
import { byteTokenizerFiles } from "./byte-tokenizer.ts";

interface Golden {
  readonly texts: readonly string[];
  readonly cases: Readonly<
    Record<
      string,
      {
        readonly bytes: boolean;
        readonly normalizer: unknown;
        readonly preTokenizer: unknown;
        readonly model: object;
        readonly ids: readonly string[];
      }
    >
  >;
  readonly models: Readonly<Record<"bytes" | "characters", { readonly vocab: object; readonly merges: [] }>>;
}

const golden = readGolden<Golden>("bpe-words.json");

function tokenizerOf(name: string, merges?: readonly unknown[]): Tokenizer {
  const each = golden.cases[name]!;
  const trained = golden.models[each.bytes ? "bytes" : "characters"];
  return new Tokenizer({
    name,
    tokenizer: {
      ...{ version: "1.0", truncation: null, padding: null, post_processor: null, decoder: null },
      added_tokens: [],
      normalizer: each.normalizer,
      pre_tokenizer: each.preTokenizer,
      model: { ...each.model, vocab: trained.vocab, merges: merges ?? trained.merges },
    },
    tokenizerConfig: { eos_token: "a" },
  });
}

describe("ids are those of Rust's tokenizers", () => {
  it.each(Object.keys(golden.cases))("with words as in %s", (name) => {
    const tokenizer = tokenizerOf(name);
    // Twice: the second time from what is remembered.
    for (let time = 0; time < 2; time++) {
      const ids = golden.texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false }).join(" "));
      expect(ids).toEqual(golden.cases[name]!.ids);
    }
  });

  it("with merges written as texts, in files that name no type", () => {
    const { model, ...rest } = byteTokenizerFiles().tokenizer as { model: { vocab: Record<string, number> } };
    const vocab = { ...model.vocab, ab: 300, abc: 301 };
    const tokenizer = new Tokenizer({
      ...byteTokenizerFiles(),
      tokenizer: { ...rest, model: { vocab, merges: ["a b", "ab c"] } },
    });
    expect(tokenizer.encode("abcab")).toEqual([0, 301, 300]);
  });
});

describe("merges that this does not compute", () => {
  const vocab = { a: 0, b: 1, ab: 2 };

  it.each([
    ["a token that is not there", { type: "BPE", vocab, merges: [["a", "c"]] }],
    ["a product that is not there", { type: "BPE", vocab, merges: [["b", "a"]] }],
    ["no pair", { type: "BPE", vocab, merges: [["a", "b", "a"]] }],
    ["no texts", { type: "BPE", vocab, merges: [[0, 1]] }],
    ["dropout", { type: "BPE", vocab, merges: [["a", "b"]], dropout: 0.1 }],
    ["another model", { type: "WordPiece", vocab, merges: [["a", "b"]] }],
    ["a suffix of words", { type: "BPE", vocab, merges: [["a", "b"]], end_of_word_suffix: "</w>" }],
  ])("%s", (_, model) => expect(readMerges(model)).toBeUndefined());
});

it("a long word merges as a short one does, by rank and from the left", () => {
  const ids: Record<string, number> = { a: 0, aa: 1, aaaa: 2, b: 3, ab: 4 };
  const { merges } = readMerges({
    type: "BPE",
    vocab: ids,
    merges: [
      ["a", "a"],
      ["aa", "aa"],
      ["a", "b"],
    ],
  })!;
  expect(merges.merge([0, 0, 0, 3])).toEqual([1, 4]);
  const word = [...new Array<number>(4 * 5000 + 3).fill(0), 3];
  expect(merges.merge(word)).toEqual([...new Array<number>(5000).fill(2), 1, 4]);
});
