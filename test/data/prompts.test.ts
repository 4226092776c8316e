// Rows as prompts alone: whatever form a prompt has, its tokens are those that generation sees, rewards get the row as plain
// JSON, and rows without a prompt or without room are told of by name.

import { describe, expect, it } from "vitest";
import { nameRows } from "../../src/data/memory-rows.ts";
import { loadPrompts, type PromptOptions } from "../../src/data/prompts.node.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { byteTokenizer } from "../text/byte-tokenizer.ts";

const tokenizer = byteTokenizer();
const template = new ChatTemplate(
  "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
  {},
  "the test's template",
);
const options: PromptOptions = {
  ...{ tokenizer, template, maxNewTokens: 10, sequenceLength: 60, overLength: "error" },
};

async function load(rows: readonly object[], more: Partial<PromptOptions> = {}) {
  using named = nameRows(rows);
  return await loadPrompts(named.name, { ...options, ...more });
}
const textsOf = async (...rows: object[]) => (await load(rows)).rows.map(({ text }) => text);

describe("prompts", () => {
  it("are found in every form of row, without the answer", async () => {
    const user = { role: "user", content: "hi" };
    const said = { role: "assistant", content: "no" };
    expect(
      await textsOf(
        { prompt: "a:" },
        { prompt: "a:", completion: "b" },
        { prompt: "a:", chosen: "b", rejected: "c" },
        { prompt: "[a] is no list" },
        { prompt: [user] },
        { messages: [user] },
        { messages: [user, said] },
        { messages: [user, said, user] },
        { messages: [user], system: "s" },
        {
          conversations: [
            { from: "human", value: "hi" },
            { from: "gpt", value: "no" },
          ],
        },
      ),
    ).toEqual([
      ...["a:", "a:", "a:", "[a] is no list"],
      ...["user: hi\nassistant:", "user: hi\nassistant:", "user: hi\nassistant:"],
      "user: hi\nassistant: no\nuser: hi\nassistant:",
      "system: s\nuser: hi\nassistant:",
      "user: hi\nassistant:",
    ]);
    const { rows } = await load([{ prompt: "a:" }, { messages: [user] }]);
    expect(rows[0]!.ids).toEqual(tokenizer.encode("a:"));
    expect(tokenizer.decode([...rows[1]!.ids])).toBe("user: hi\nassistant:");
  });

  it("bring their rows as plain JSON", async () => {
    const { rows, report } = await load([{ prompt: "a:", answer: 12, list: [1.5, null], 2: { "10": "x" } }]);
    expect(rows[0]!.value).toEqual({ prompt: "a:", answer: 12, list: [1.5, null], 2: { 10: "x" } });
    expect(rows[0]!.value).toEqual(structuredClone(rows[0]!.value));
    expect(report).toMatchObject({ rows: 1, samples: 1, tokens: 3, targetTokens: 0, format: "prompts" });
  });

  it("without room for a completion are refused by row, or dropped", async () => {
    const rows = [{ prompt: "x".repeat(49) }, { prompt: "x".repeat(50) }];
    await expect(load(rows)).rejects.toThrow(/1 of 2 prompts.*row.* 2 has 51 tokens.*--over-length drop/);
    const { rows: kept, report } = await load(rows, { overLength: "drop" });
    expect(kept).toHaveLength(1);
    expect(report).toMatchObject({ rows: 2, samples: 1, dropped: 1 });
    await expect(load(rows.slice(1), { overLength: "drop" })).rejects.toThrow(/no prompt is left/);
  });

  it.each([
    ["a text alone", { text: "x" }, /holds nothing to ask/],
    ["no known key", { words: "x" }, /found keys/],
    ["the assistant alone", { messages: [{ role: "assistant", content: "x" }] }, /nobody says anything/],
  ])("of %s are refused by row", async (_, row, message) => {
    await expect(load([{ prompt: "a:" }, row])).rejects.toThrow(/(line|row) 2/);
    await expect(load([{ prompt: "a:" }, row])).rejects.toThrow(message);
  });

  it("of conversations need a template", async () => {
    const row = { messages: [{ role: "user", content: "hi" }] };
    await expect(load([row], { template: undefined })).rejects.toThrow(/row.* 1: .*no chat template/);
  });
});
