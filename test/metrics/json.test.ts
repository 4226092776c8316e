// JSON validity and the JSON Schema subset: what conforms, what does not, and what is refused.

import { describe, expect, test } from "vitest";
import { compileSchema } from "../../src/metrics/json-schema.ts";
import { jsonConformance, jsonValidity, parseJson } from "../../src/metrics/json-validity.ts";
import { UserError } from "../../src/util/errors.ts";

test("valid JSON is the whole text", () => {
  const texts = [
    '{"a": 1}',
    " [1]\n",
    "null",
    '"x"',
    "",
    "{a: 1}",
    'Sure: {"a": 1}',
    "```json\n{}\n```",
    "NaN",
  ];
  expect(texts.map((text) => parseJson(text) !== undefined)).toEqual([
    true,
    true,
    true,
    true,
    false,
    false,
    false,
    false,
    false,
  ]);
  expect(jsonValidity.combine(texts.map((text) => jsonValidity.row(text, [""]))).jsonValid).toBeCloseTo(
    4 / 9,
  );
});

const cases: [schema: unknown, conforming: unknown[], violating: unknown[]][] = [
  [{ type: "integer" }, [1, -3, 1.0], [1.5, "1", null]],
  [{ type: ["string", "null"] }, ["a", null], [1, {}]],
  [{ type: "object" }, [{}], [[], null]],
  [{ enum: ["a", { b: 1, c: [2] }] }, ["a", { c: [2], b: 1 }], ["b", { b: 1 }]],
  [{ const: [1, 2] }, [[1, 2]], [[2, 1]]],
  [{ minimum: 2, exclusiveMaximum: 5 }, [2, 4.9, "x"], [1, 5]],
  [{ exclusiveMinimum: 2, maximum: 5 }, [5], [2, 6]],
  [{ minLength: 2, maxLength: 2 }, ["ab", "😀😀", 7], ["a", "abc"]],
  [{ pattern: "^[A-Z]+$" }, ["AB", 3], ["aB", ""]],
  [
    { items: { type: "number" }, minItems: 1, maxItems: 2, uniqueItems: true },
    [[1], [1, 2]],
    [[], [1, 1], [1, 2, 3], ["a"]],
  ],
  [{ prefixItems: [{ type: "string" }], items: { type: "number" } }, [["a", 1], []], [[1], ["a", "b"]]],
  [
    {
      type: "object",
      properties: { name: { type: "string" } },
      required: ["name"],
      additionalProperties: false,
    },
    [{ name: "x" }],
    [{}, { name: 1 }, { name: "x", age: 2 }],
  ],
  [{ additionalProperties: { type: "number" } }, [{ a: 1 }], [{ a: "1" }]],
  [{ minProperties: 1, maxProperties: 1 }, [{ a: 1 }], [{}, { a: 1, b: 2 }]],
  [{ anyOf: [{ type: "string" }, { minimum: 3 }] }, ["a", 4], [1]],
  [{ oneOf: [{ minimum: 1 }, { maximum: 3 }] }, [0, 5], [2]],
  [{ allOf: [{ minimum: 1 }, { maximum: 3 }] }, [2], [0, 5]],
  [{ not: { type: "null" } }, [1], [null]],
  [{ properties: { constructor: { type: "number" } } }, [{}], [{ constructor: "x" }]],
  [true, [1], []],
  [false, [], [1, null]],
  [{ title: "t", description: "d", format: "date" }, ["x"], []],
];

describe("schemas", () => {
  test.each(cases)("%j", (schema, conforming, violating) => {
    const check = compileSchema(schema);
    for (const value of conforming) expect(check(value)).toBeUndefined();
    for (const value of violating) expect(check(value)).toMatch(/^\$/);
  });

  test("a violation names its place", () => {
    const check = compileSchema({ properties: { list: { items: { type: "string" } } } });
    expect(check({ list: ["a", 2] })).toBe("$.list[1]: expected string");
  });

  test("what is not supported or malformed is refused", () => {
    let deep: unknown = {};
    for (let i = 0; i < 100; i++) deep = { items: deep };
    for (const schema of [
      { $ref: "#/x" },
      { if: {} },
      { properties: { a: { multipleOf: 2 } } },
      { type: "text" },
      { pattern: "(" },
      { minLength: -1 },
      { required: "a" },
      { minimum: "1" },
      { items: 3 },
      7,
      null,
      deep,
      { toString: 1 },
    ]) {
      expect(() => compileSchema(schema)).toThrow(UserError);
    }
    expect(() => compileSchema({ properties: { a: { multipleOf: 2 } } })).toThrow(
      'at #/properties/a: keyword "multipleOf" is not supported',
    );
  });

  test("a text that nests without end does not conform, and does not crash", () => {
    const bomb = "[".repeat(100_000) + "]".repeat(100_000);
    expect(compileSchema({ enum: [1] })(JSON.parse(bomb))).toBe("$: nested deeper than 512 levels");
  });

  test("conformance as a metric", () => {
    const metric = jsonConformance(compileSchema({ type: "object", required: ["a"] }));
    const rows = ['{"a": 1}', "{}", "a"].map((text) => metric.row(text, [""]));
    expect(metric.combine(rows).jsonConforms).toBeCloseTo(1 / 3);
  });
});
