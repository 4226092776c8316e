// The lower bound of a text's tokens: never above what the tokenizer makes of it, near it for long words, and none where
// a tokenizer may pass over text.

import { describe, expect, it } from "vitest";
import { tokenBound } from "../../src/text/token-bound.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { byteTokenizer, byteTokenizerFiles } from "./byte-tokenizer.ts";

type Json = Record<string, unknown>;
const files = byteTokenizerFiles().tokenizer as Json;
const texts = [
  "",
  "a",
  "word ".repeat(200),
  " ".repeat(500),
  "漢字".repeat(100),
  "\u1100\u1161\u11a8".repeat(50), // three letters that Unicode's normal forms join
  "\ud835\udc00".repeat(50), // a mathematical letter: four bytes, one in compatibility forms
  "<s></s><|im_end|>".repeat(20),
  "<s>     <s>".repeat(20),
];

describe("the fewest tokens of a text", () => {
  it("are never more than its tokens", () => {
    const strips = (files.added_tokens as Json[]).map((token) => ({ ...token, lstrip: true, rstrip: true }));
    for (const [name, change] of Object.entries({
      bytes: {},
      NFC: { normalizer: { type: "NFC" } },
      "NFKC and lower case": {
        normalizer: { type: "Sequence", normalizers: [{ type: "NFKC" }, { type: "Lowercase" }] },
      },
      "tokens that take spaces": { added_tokens: strips },
    })) {
      const json = { ...files, ...change };
      const tokenizer = new Tokenizer({ ...byteTokenizerFiles(), tokenizer: json });
      for (const text of texts) {
        const count = tokenizer.encode(text, { addSpecialTokens: false }).length;
        expect(tokenizer.fewestTokens(text), `${name}: ${text.slice(0, 12)}`).toBeLessThanOrEqual(count);
      }
      expect(tokenizer.fewestTokens("x".repeat(1000)), name).toBeGreaterThan(0);
    }
  });

  it("come from the longest token's bytes", () => {
    // The longest here is the special token <|im_end|>.
    expect(byteTokenizer().fewestTokens("x".repeat(1001))).toBe(101);
    expect(byteTokenizer().fewestTokens("é".repeat(1000))).toBe(200);
  });

  it("are none where a tokenizer may leave text out, or gather it into one token", () => {
    const vocab = { a: 0, "<unk>": 1 };
    for (const [name, json] of Object.entries({
      "words, with one token for unknown ones": { model: { type: "WordPiece", vocab } },
      "unknown letters gathered": { model: { type: "BPE", vocab, unk_token: "<unk>", fuse_unk: true } },
      "spaces dropped": {
        ...files,
        pre_tokenizer: {
          type: "Sequence",
          pretokenizers: [{ type: "WhitespaceSplit" }, { type: "ByteLevel" }],
        },
      },
      "separators removed": {
        ...files,
        pre_tokenizer: {
          type: "Sequence",
          pretokenizers: [
            { type: "Split", behavior: "Removed", pattern: { String: " " } },
            { type: "ByteLevel" },
          ],
        },
      },
      "text stripped": { ...files, normalizer: { type: "Strip", strip_left: true, strip_right: true } },
      "text replaced by less": {
        ...files,
        normalizer: { type: "Replace", pattern: { String: "ab" }, content: "" },
      },
      "a pattern replaced": {
        ...files,
        normalizer: { type: "Replace", pattern: { Regex: " +" }, content: " " },
      },
      "a kind of tomorrow": { ...files, normalizer: { type: "Shorten" } },
    }))
      expect(tokenBound(json)("x".repeat(10_000)), name).toBe(0);
  });

  it("hold for tokenizers of characters that fall back to bytes", () => {
    const model = { type: "BPE", vocab: { "▁a": 0, abcd: 1 }, byte_fallback: true };
    const normalizer = {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    };
    expect(tokenBound({ model, normalizer, pre_tokenizer: null })("x".repeat(1200))).toBe(100);
  });
});
