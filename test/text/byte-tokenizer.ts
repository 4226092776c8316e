// A tokenizer for tests that needs no files: one token a byte (GPT-2's byte alphabet, no merges), with the special
// tokens <s>, </s> and <|im_end|>; it puts <s> before a text. Ids: byte b is 3 + its place in the alphabet.

import { Tokenizer } from "../../src/text/tokenizer.ts";
import type { TokenizerFiles } from "../../src/text/tokenizer-files.ts";

/** GPT-2's letters for bytes: printable ones stand for themselves, the others are shifted to 256 and up. */
function byteLetters(): string[] {
  const printable = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let shifted = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : shifted++));
}

const SPECIAL = ["<s>", "</s>", "<|im_end|>"];

export function byteTokenizerFiles(extra: Partial<TokenizerFiles> = {}): TokenizerFiles {
  const vocab: Record<string, number> = {};
  for (const [i, letter] of byteLetters().entries()) vocab[letter] = SPECIAL.length + i;
  return {
    name: "bytes",
    tokenizer: {
      version: "1.0",
      added_tokens: SPECIAL.map((content, id) => ({
        id,
        content,
        special: true,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
      })),
      normalizer: null,
      pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [],
        special_tokens: { "<s>": { id: "<s>", ids: [0], tokens: ["<s>"] } },
      },
      decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: { type: "BPE", vocab, merges: [] },
    },
    tokenizerConfig: { bos_token: "<s>", eos_token: "</s>" },
    ...extra,
  };
}

export const byteTokenizer = (extra: Partial<TokenizerFiles> = {}) =>
  new Tokenizer(byteTokenizerFiles(extra));
