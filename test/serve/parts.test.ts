// The parts of serving that need no server: tool calls found in text, streams of events whose reader is slow or gone,
// and what a body may say.

import { describe, expect, it } from "vitest";
import { eventStream } from "../../src/serve/event-stream.ts";
import { parseRequestJson } from "../../src/serve/request-json.ts";
import { chatPrompt, parseChat, parseCompletion } from "../../src/serve/requests.ts";
import { ToolCallGate } from "../../src/serve/tool-calls.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";

describe("tool calls", () => {
  function through(pieces: readonly string[]) {
    let content = "";
    const gate = new ToolCallGate((text) => {
      content += text;
    });
    for (const piece of pieces) gate.push(piece);
    return { calls: gate.finish(), content };
  }
  const call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>';

  it("are cut out of the text, however it is cut into pieces", () => {
    const text = `Let me look.\n${call}\n${call.replace("Bern", "Rome")}`;
    for (const size of [1, 3, 7, 1000]) {
      const pieces = text.match(new RegExp(`[\\s\\S]{1,${size}}`, "g"))!;
      expect(through(pieces)).toEqual({
        content: "Let me look.\n",
        calls: [
          { name: "weather", arguments: '{"city": "Bern"}' },
          { name: "weather", arguments: '{"city": "Rome"}' },
        ],
      });
    }
  });

  it("stay text where they are none", () => {
    expect(through(["a < b <tool", "_x>"])).toEqual({ content: "a < b <tool_x>", calls: [] });
    expect(through(["<tool_call>not JSON</tool_call>"])).toEqual({
      content: "<tool_call>not JSON</tool_call>",
      calls: [],
    });
  });
});

describe("numbers", () => {
  const written = '{"id": 9007199254740993, "x": 1.0, "by_year": {"2024": 1e-07, "10": -0.0}}';

  it("of a tool call stay as the model wrote them", () => {
    const gate = new ToolCallGate(() => {});
    gate.push(`<tool_call>{"name": "f", "arguments": ${written}}</tool_call>`);
    expect(gate.finish()).toEqual([{ name: "f", arguments: written }]);
  });

  it("of a request are plain where they are options, and as written where templates print them", () => {
    const body = parseRequestJson(
      `{"model": "m", "temperature": 1.0, "seed": 2e3, "messages": [{"role": "user", "content": "q", "7": 1}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": ${written}}}],
        "chat_template_kwargs": {"at": 12.0}}`,
    );
    const chat = parseChat(body);
    expect(chat.temperature).toBe(1);
    const prompt = structuredClone(chatPrompt(chat));
    const template = "{{ tools[0].function.parameters | tojson }} {{ at }}";
    const text = new ChatTemplate(template, {}, "T").render([], prompt);
    expect(text).toBe(`${written} 12.0`);
    expect(() => parseRequestJson("{")).toThrow(SyntaxError);
    expect(parseRequestJson("[1.0]")).toEqual([1]);
  });
});

describe("event streams", () => {
  it("end with [DONE] and come whole", async () => {
    const stream = eventStream({ leave() {}, stallMs: 1000 });
    stream.send({ a: 1 });
    stream.end();
    stream.send("late");
    expect(await new Response(stream.readable).text()).toBe('data: {"a":1}\n\ndata: [DONE]\n\n');
  });

  it("abort the work of a reader that goes, or that does not read", async () => {
    const left: string[] = [];
    const first = eventStream({ leave: () => left.push("gone"), stallMs: 1000 });
    await first.readable.cancel();
    expect(left).toEqual(["gone"]);

    const second = eventStream({ leave: () => left.push("stalled"), stallMs: 30 });
    second.send("x".repeat(100_000));
    await expect.poll(() => left).toEqual(["gone", "stalled"]);
  });
});

describe("bodies", () => {
  const chat = { model: "m", messages: [{ role: "user", content: "hi" }] };
  it("take what clients send and refuse what would be ignored in silence", () => {
    expect(parseChat({ ...chat, user: "u", store: false, presence_penalty: 0 }).model).toBe("m");
    for (const [key, value] of Object.entries({
      presence_penalty: 1,
      logit_bias: { 5: 1 },
      response_format: { type: "json_object" },
      tool_choice: "required",
      temperature: -1,
      top_p: 0,
      n: 0,
      messages: [],
      stop: ["", "x"],
    })) {
      expect(() => parseChat({ ...chat, [key]: value }), key).toThrow(new RegExp(key));
    }
    expect(() => parseChat([])).toThrow(/the body/);
    expect(() => parseCompletion({ model: "m", prompt: "x", echo: true })).toThrow(/echo/);
    expect(() => parseCompletion({ model: "m", prompt: [] })).toThrow(/prompt/);
    expect(() => parseCompletion({ model: "m", prompt: [1, "x"] })).toThrow(/prompt/);
  });
});
