// Chat templates that would run for hours or fill the memory end in a sentence, by counted bounds; those in use come
// nowhere near them.

import { parse, tokenize } from "@huggingface/jinja";
import { describe, expect, it } from "vitest";
import { templateBounds } from "../../src/text/bounded-template.ts";
import { builtinTemplates } from "../../src/text/builtin-templates.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { markOutputs, renderProgram } from "../../src/text/template-values.ts";
import { UserError } from "../../src/util/errors.ts";

const small = { ...templateBounds, steps: 1000, characters: 100_000, items: 100_000, total: 500_000 };

function run(source: string, bounds = small): unknown {
  const variables = {
    range: (count: number) => Array.from({ length: count }, (_, i) => i),
    wait: () => {
      for (;;);
    },
  };
  return renderProgram(markOutputs(parse(tokenize(source))), variables, bounds);
}

const doubling = (start: string, times: number) =>
  `{% set ns = namespace(x=${start}) %}{% for i in range(${times}) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}`;

describe("a template", () => {
  it("within its bounds gives what it gave", () => {
    expect(run("{% for i in range(5) %}{{ i }},{% endfor %}")).toBe("0,1,2,3,4,");
    expect(run(doubling("'ab'", 10))).toBe("2048");
  });

  it.each([
    [
      "of many loops",
      "{% for i in range(90) %}{% for j in range(90) %}x{% endfor %}{% endfor %}",
      /more than 1000 steps/,
    ],
    ["with a text that doubles", doubling("'ab'", 20), /a text of more than 100000/],
    ["with a list that doubles", doubling("[1, 2]", 20), /a list of more than 100000/],
    [
      "with many large texts",
      `${doubling("'ab'", 15)}{% for i in range(20) %}{{ (ns.x | upper) | length }}{% endfor %}`,
      /more than 500000 in all/,
    ],
  ])("%s is refused", (_, source, message) => {
    expect(() => run(source)).toThrow(message);
  });

  it("that lingers inside one step is stopped by the clock", () => {
    expect(() => run("{{ wait() }}", { ...small, milliseconds: 50 })).toThrow(
      /rendering took longer than 0.05 s/,
    );
  });

  it("is refused by name when it renders a conversation", () => {
    const source = "{% for i in range(3000) %}{% for j in range(3000) %}x{% endfor %}{% endfor %}";
    const render = () => new ChatTemplate(source, {}, "mine").render([{ role: "user", content: "Hi" }]);
    let error: unknown;
    try {
      render();
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(UserError);
    // A busy machine meets the clock first.
    expect((error as Error).message).toMatch(
      /^mine refuses this conversation: rendering (takes more|took longer) than/,
    );
  });

  it("may render a conversation of thousands of messages", () => {
    const messages = Array.from({ length: 4000 }, (_, i) => ({
      role: i % 2 ? "assistant" : "user",
      content: `turn ${i}`,
    }));
    const text = new ChatTemplate(builtinTemplates.chatml, { eos_token: "</s>" }, "chatml").render(messages);
    expect(text).toContain("turn 3999");
  });
});
