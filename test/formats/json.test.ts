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
