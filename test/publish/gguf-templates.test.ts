// Chat templates in GGUF metadata: one under its usual key, several as gguf-py's add_chat_template writes them.

import { expect, it } from "vitest";
import type { JsonObject } from "../../src/formats/json.ts";
import { tokenizerMetadata } from "../../src/publish/gguf-tokenizer.ts";
import { byteTokenizer, byteTokenizerFiles } from "../text/byte-tokenizer.ts";

const templatesOf = (templates?: Readonly<Record<string, string>>) => {
  const metadata = tokenizerMetadata({
    tokenizer: byteTokenizer({ chatTemplate: "own" }),
    json: byteTokenizerFiles().tokenizer as JsonObject,
    vocabularySize: 259,
    preTokenizer: "gpt-2",
    templates,
  });
  const found = [...metadata].filter(([key]) => key.startsWith("tokenizer.chat_template"));
  return Object.fromEntries(found.map(([key, { value }]) => [key, value]));
};

it("are the tokenizer's own unless others are given", () => {
  expect(templatesOf()).toEqual({ "tokenizer.chat_template": "own" });
  expect(templatesOf({})).toEqual({});
  expect(templatesOf({ default: "D" })).toEqual({ "tokenizer.chat_template": "D" });
  expect(templatesOf({ default: "D", tool_use: "T", "a-b": "A" })).toEqual({
    "tokenizer.chat_template": "D",
    "tokenizer.chat_template.tool_use": "T",
    "tokenizer.chat_template.a_b": "A",
    "tokenizer.chat_templates": ["tool_use", "a_b"],
  });
});
