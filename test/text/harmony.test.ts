// Conversations by channels, as gpt-oss has them: the same text as transformers', and the loss on every channel that the
// assistant speaks in - thoughts, tool calls and answers - though earlier thoughts vanish as the conversation goes on.

import { describe, expect, it } from "vitest";
import { type ChatMessage, ChatTemplate } from "../../src/text/chat-template.ts";
import { readGolden } from "../golden/load-golden.ts";

interface Golden {
  readonly template: string;
  readonly cases: Readonly<
    Record<
      string,
      {
        readonly messages: readonly ChatMessage[];
        readonly tools: readonly unknown[] | null;
        readonly text: string;
        readonly said: readonly string[];
      }
    >
  >;
}

const { template, cases } = readGolden<Golden>("harmony.json");
const marked = new ChatTemplate(template, {}, "T");
const plain = new ChatTemplate(template.replaceAll(/\{%- (?:end)?generation -%\}/g, ""), {}, "T");

describe("a template of channels", () => {
  it.each(Object.entries(cases))("%s", (_, { messages, tools, text, said }) => {
    const options = { tools: tools ?? undefined };
    for (const each of [plain, marked]) {
      expect(each.render(messages, options)).toBe(text);
      const { segments } = each.renderSegments(messages, options);
      expect(segments.map((segment) => segment.text).join("")).toBe(text);
      expect(segments.filter(({ assistant }) => assistant).map((segment) => segment.text)).toEqual(said);
    }
  });

  it("each span is of the message that it says", () => {
    const { messages, tools } = cases["a call, an answer, and on"]!;
    const { segments } = plain.renderSegments(messages, { tools: tools! });
    const turns = [...messages.keys()].filter((i) => messages[i]!.role === "assistant");
    expect(segments.filter(({ assistant }) => assistant).map(({ message }) => message)).toEqual(turns);
  });

  it("asks for an answer where one begins", () => {
    const { messages, text, said } = cases["one answer"]!;
    expect(plain.render(messages.slice(0, -1), { addGenerationPrompt: true }) + said[0]).toBe(text);
  });
});
