// Values nested without end are found without recursion, and refused wherever a file of a model is read.

import { describe, expect, it } from "vitest";
import { parseJson } from "../../src/formats/json.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { UserError } from "../../src/util/errors.ts";
import { isNestedBeyond, NESTING_CAP } from "../../src/util/nesting.ts";
import { byteTokenizerFiles } from "../text/byte-tokenizer.ts";

const nested = (depth: number): unknown => JSON.parse("[".repeat(depth) + "]".repeat(depth));

describe("nesting", () => {
  it("is counted", () => {
    expect(isNestedBeyond(7, 0)).toBe(false);
    expect(isNestedBeyond([], 0)).toBe(true);
    expect(isNestedBeyond({ a: [{ b: 1 }, "x"] }, 3)).toBe(false);
    expect(isNestedBeyond({ a: [{ b: 1 }, "x"] }, 2)).toBe(true);
    expect(isNestedBeyond(nested(100_000))).toBe(true);
  });

  it("is refused in JSON files and in every file of a tokenizer", () => {
    const text = (depth: number) => new TextEncoder().encode(JSON.stringify(nested(depth)));
    expect(parseJson(text(NESTING_CAP), "x.json")).toBeInstanceOf(Array);
    expect(() => parseJson(text(NESTING_CAP + 1), "x.json")).toThrow(
      /^x\.json: lists and objects stand in each other/,
    );
    const files = byteTokenizerFiles();
    for (const [key, file] of [
      ["tokenizer", "tokenizer.json"],
      ["tokenizerConfig", "tokenizer_config.json"],
      ["generationConfig", "generation_config.json"],
      ["modelConfig", "config.json"],
    ] as const) {
      const given = { ...files, [key]: { ...(files[key] as object), deep: nested(10_000) } };
      expect(() => new Tokenizer(given)).toThrow(UserError);
      expect(() => new Tokenizer(given)).toThrow(`bytes: ${file}: lists and objects stand`);
    }
  });
});
