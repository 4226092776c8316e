import { describe, expect, it } from "vitest";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { parseExactJson } from "../../src/text/exact-json.ts";
import { exactJsonText } from "../../src/text/template-values.ts";
import { readGolden } from "../golden/load-golden.ts";

interface Golden {
  readonly cases: readonly {
    readonly value: string;
    readonly template: string;
    readonly text: string | null;
  }[];
}

function render(template: string, value: unknown): string | null {
  const source = `{% set x = messages[0]['held'][0] %}${template}`;
  try {
    return new ChatTemplate(source, {}, "T").render([{ role: "user", held: [value] }]);
  } catch {
    return null;
  }
}

describe("values in templates", () => {
  const { cases } = readGolden<Golden>("template-values.json");
  const templates = [...new Set(cases.map(({ template }) => template))];

  it.each(templates)("%s prints what transformers prints", (template) => {
    const own = cases.filter((one) => one.template === template);
    const texts = own.map(({ value }) => [value, render(template, parseExactJson(value))]);
    expect(texts).toEqual(own.map(({ value, text }) => [value, text]));
  });

  it("survive being sent to a thread", () => {
    const value = parseExactJson('{"id": 9007199254740993, "x": 1.0, "by": {"10": 1, "2": -0.0}}');
    expect(exactJsonText(structuredClone(value))).toBe(
      '{"id": 9007199254740993, "x": 1.0, "by": {"10": 1, "2": -0.0}}',
    );
  });

  it("do not let an integer grow without end", () => {
    const squares =
      "{% set n = namespace(v=10) %}{% for i in range(40) %}{% set n.v = n.v * n.v %}{% endfor %}";
    expect(() => new ChatTemplate(squares, {}, "T").render([])).toThrow(/grows too long/);
  });
});
