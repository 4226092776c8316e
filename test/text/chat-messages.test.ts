// What templates see of messages. The expected texts are what transformers 5.24.0 renders of the same messages.

import { describe, expect, it } from "vitest";
import { type ChatMessage, ChatTemplate } from "../../src/text/chat-template.ts";

const keys = new ChatTemplate(
  "{% for m in messages %}{{ m.keys() | join(' ') }}: {{ m.reasoning_content }}|{{ m.thinking }}|{{ m.reasoning }}{% endfor %}",
  {},
  "T",
);
const seen = (message: Record<string, unknown>) => keys.render([message as ChatMessage]);

describe("thoughts", () => {
  it.each([
    [{ role: "a", thinking: "A", content: "4" }, "thinking role content reasoning_content: A|A|"],
    [{ role: "a", reasoning: "A", content: "4" }, "thinking role reasoning content reasoning_content: A|A|A"],
    [{ role: "a", reasoning_content: "A", thinking: "B" }, "thinking role reasoning_content: A|B|"],
    [
      { role: "a", reasoning_content: null, thinking: "B", reasoning: "C" },
      "thinking role reasoning reasoning_content: B|B|C",
    ],
    [{ role: "a", reasoning_content: "", thinking: "B" }, "thinking role reasoning_content: |B|"],
    [{ role: "a", content: "4" }, "role content: ||"],
  ])("of %j are found under any of their names", (message, expected) => {
    expect(seen(message)).toBe(expected);
  });

  it("fill the place that a template has for them", () => {
    const thinks = new ChatTemplate(
      "{% for m in messages %}{% if m.role == 'assistant' %}<think>{{ m.reasoning_content or '' }}</think>{% endif %}{{ m.content }};{% endfor %}",
      {},
      "T",
    );
    const talk = [
      { role: "user", content: "1+1?" },
      { role: "assistant", thinking: "One and one.", content: "2" },
    ];
    expect(thinks.render(talk)).toBe("1+1?;<think>One and one.</think>2;");
  });
});

describe("keys whose value is null", () => {
  it("are not there, so that 'key in message' means what it says", () => {
    const calls = new ChatTemplate(
      "{% for m in messages %}{% if 'tool_calls' in m %}{{ m.tool_calls | length }} calls{% else %}{{ m.content }}{% endif %};{% endfor %}",
      {},
      "T",
    );
    const talk = [{ role: "assistant", content: "It rains.", tool_calls: null, tool_call_id: null }];
    expect(calls.render(talk)).toBe("It rains.;");
    expect(seen({ role: "a", content: null })).toBe("role: ||");
  });
});
