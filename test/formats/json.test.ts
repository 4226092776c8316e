import { describe, expect, it } from "vitest";
import { jsonText, parseJson } from "../../src/formats/json.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

describe("JSON of configs", () => {
  it("writes whole floats as Python expects them, and nothing else so", () => {
    const value = {
      rope_theta: 10000,
      rope_scaling: { factor: 8, note: '"factor": 8' },
      hidden_size: 64,
      top_p: 0.5,
    };
    const text = jsonText(value);
    expect(text).toContain('"rope_theta": 10000.0,');
    expect(text).toContain('"factor": 8.0,');
    expect(text).toContain('"hidden_size": 64,');
    expect(text).toContain('"top_p": 0.5\n');
    expect(JSON.parse(text)).toEqual(value);
  });

  it("spells whole floats as the file that it was read from, wherever they stand", () => {
    const source =
      '{"cap": 30.0, "list": [1, 2.0, {"x": 1e3}], "deep": {"a\\"b": {"limit": [0.0, 5]}}, "n": 7}';
    const read = parseJson(bytes(source), "c.json") as Record<string, unknown>;
    const changed = { ...read, n: 8, added: 3, list: [1, 2, { x: 1000 }], gone: undefined, none: [] };
    const text = jsonText(changed, read);
    expect(JSON.parse(text)).toEqual(changed);
    expect(text.match(/-?\d[\d.]*/g)).toEqual(["30.0", "1", "2.0", "1000.0", "0.0", "5", "8", "3"]);
    expect(text).toBe(`${text.trimEnd()}\n`);
    // Of what was not read from a file, as JSON.stringify writes it.
    expect(jsonText(changed)).toBe(`${JSON.stringify(changed, null, 2)}\n`);
  });

  it.each([
    ['{"a": 1,\n "b": x}', /line 2 column 7: unexpected "x"/],
    ['{"a": 1,\n}', /line 2 column 1: unexpected "}"/],
    ['{"a" 1}', /line 1 column 6: unexpected "1"/],
    ["[1 2]", /line 1 column 4/],
    ['{"a": "b\nc"}', /line 1 column 7: unexpected "\\""/],
    ["[1] x", /line 1 column 5: unexpected "x"/],
    ["[01]", /line 1 column 3/],
    ['{"a": [1', /ends before the last bracket/],
    ['{"a": "x', /ends before the last bracket/],
    [" ", /the text is empty/],
    ["[".repeat(100_000), /^c\.json: not valid JSON/],
  ])("places the mistake in %#", (text, message) => {
    expect(() => parseJson(bytes(text), "c.json")).toThrow(message);
  });
});
