// A tokenizer.json with ids that no table can hold is refused before a table is made, and one whose patterns take too
// long is stopped. The slow work here is a loop of ours, not a pattern.

import { describe, expect, it } from "vitest";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { ID_CAP, patternGuard } from "../../src/text/tokenizer-bounds.ts";
import { UserError } from "../../src/util/errors.ts";
import { byteTokenizer, byteTokenizerFiles } from "./byte-tokenizer.ts";

interface Json {
  model: { vocab: Record<string, unknown> };
  added_tokens: { id: unknown; content: string }[];
}

function changed(change: (json: Json) => void): () => Tokenizer {
  const files = byteTokenizerFiles();
  const json = structuredClone(files.tokenizer) as Json;
  change(json);
  return () => new Tokenizer({ ...files, tokenizer: json });
}

describe("ids of tokens", () => {
  it.each([2 ** 31, 2 ** 53, ID_CAP, -1, 0.5, "7", null])(
    "%s is refused in the vocabulary and beside it",
    (id) => {
      for (const change of [
        (json: Json) => void (json.model.vocab.a = id),
        (json: Json) => void (json.added_tokens[1]!.id = id),
      ]) {
        expect(changed(change)).toThrow(UserError);
        expect(changed(change)).toThrow(
          /the token ".+" has the id .*; expected a whole number below 4194304/,
        );
      }
    },
  );

  it("of entries that are no tokens are refused", () => {
    for (const entry of [null, 7, "x", []]) {
      expect(changed((json) => void json.added_tokens.push(entry as never))).toThrow(UserError);
    }
  });

  it("below the cap may have holes between them", () => {
    const tokenizer = changed((json) => void (json.added_tokens[2]!.id = 5000))();
    expect(tokenizer.encode("a<|im_end|>").at(-1)).toBe(5000);
    expect(tokenizer.vocabSize).toBe(5001);
  });

  it("that only tokenizer_config.json declares are held to the cap as well", () => {
    const files = byteTokenizerFiles();
    const config = {
      ...(files.tokenizerConfig as object),
      added_tokens_decoder: { "2147483648": { content: "<x>" } },
    };
    expect(() => new Tokenizer({ ...files, tokenizerConfig: config })).toThrow(
      /the token "<x>" has the id 2147483648/,
    );
  });
});

it("a post-processor of another shape is the user's to mend, not a fault of ours", () => {
  for (const single of [null, 7, ["x"], [{ Other: 1 }], [{ SpecialToken: null }]]) {
    const make = changed((json) =>
      Object.assign(json, { post_processor: { type: "TemplateProcessing", single } }),
    );
    try {
      make().encode("abc");
    } catch (error) {
      expect(error, JSON.stringify(single)).toBeInstanceOf(UserError);
    }
  }
});

describe("patterns", () => {
  const withPattern = (Regex: string) => ({ pre_tokenizer: { type: "Split", pattern: { Regex } } });

  it("that are not known are timed", () => {
    const guard = patternGuard(withPattern("x+"), "mine");
    expect(guard(3, () => "done")).toBe("done");
    const failing = () =>
      guard(3, () => {
        for (;;);
      });
    expect(failing).toThrow(UserError);
    expect(failing).toThrow(/mine: tokenizer\.json: splitting a text of 3 characters took longer .* "x\+"/);
  });

  it("split texts as they did", () => {
    const files = byteTokenizerFiles();
    const json = { ...(files.tokenizer as object), ...withPattern("[a-z]+") };
    expect(new Tokenizer({ ...files, tokenizer: json }).encode("abc")).toEqual(byteTokenizer().encode("abc"));
  });
});
