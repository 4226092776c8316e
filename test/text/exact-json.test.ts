import { describe, expect, it } from "vitest";
import { parseExactJson, WholeFloat } from "../../src/text/exact-json.ts";

describe("parseExactJson", () => {
  it.each([
    ["7", 7],
    ["0.5", 0.5],
    ["1e-07", 1e-7],
    ["12.0", new WholeFloat(12)],
    ["1E5", new WholeFloat(1e5)],
    ["-0.0", new WholeFloat(-0)],
    ["0.99999999999999999999", new WholeFloat(1)],
    ["9007199254740991", 9007199254740991],
    ["9007199254740993", 9007199254740993n],
    ["-123456789012345678901234567890", -123456789012345678901234567890n],
    [
      '[1.0, "a\\"]12.0", "\\\\", {"b": 1e3}]',
      [new WholeFloat(1), 'a"]12.0', "\\", { b: new WholeFloat(1000) }],
    ],
    [' { "x" : 2.0 , "y" : [ ] , "z" : { } } ', { x: new WholeFloat(2), y: [], z: {} }],
    ['"he said: [1.0, 2.0]"', "he said: [1.0, 2.0]"],
  ])("reads %s", (text, value) => {
    expect(parseExactJson(text)).toEqual(value);
  });

  it("keeps the order of keys that look like numbers, the last of two equal ones, and keys that objects treat apart", () => {
    const value = parseExactJson('{"10": 1, "2": {"a": 3, "\\u0031": 4}, "10": 5}') as Map<string, unknown>;
    expect([...value]).toEqual([
      ["10", 5],
      ["2", new Map(Object.entries({ a: 3, 1: 4 }).reverse())],
    ]);
    const odd = parseExactJson('{"__proto__": {"x": 1.0}, "y": 1}') as object;
    expect(Object.keys(odd)).toEqual(["__proto__", "y"]);
    expect(Object.getPrototypeOf(odd)).toBe(Object.prototype);
  });

  it.each(['{"a": 1.0', "[1.0,]", "[01.0]", "1.", "{1.0: 2}", "[1.0 2.0]", "NaN"])("refuses %s", (text) => {
    expect(() => parseExactJson(text)).toThrow(SyntaxError);
  });

  it("gives the same as JSON.parse for text without such numbers, and stops at deep nesting", () => {
    const text = JSON.stringify({ a: [1, -2.5, "x\u2028\\", null, true, false], b: { c: [[], {}] } });
    expect(parseExactJson(text)).toEqual(JSON.parse(text));
    expect(parseExactJson(`[1.0, ${text}]`)).toEqual([new WholeFloat(1), JSON.parse(text)]);
    expect(() => parseExactJson(`${"[".repeat(600)}1.0${"]".repeat(600)}`)).toThrow(/nested deeper/);
  });
});
