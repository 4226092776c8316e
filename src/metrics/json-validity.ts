// The share of predictions that are valid JSON, from 0 to 1: the whole text, whitespace at its ends aside, must parse;
// JSON inside prose or a code fence is not valid. Conformance to a JSON Schema is json-schema.ts.

import type { SchemaCheck } from "./json-schema.ts";
import { meanOf, type TextMetric } from "./text-metric.ts";

/** The parsed value of a text that is JSON as a whole, or undefined. */
export function parseJson(text: string): { readonly value: unknown } | undefined {
  try {
    return { value: JSON.parse(text) };
  } catch {
    return undefined;
  }
}

export const jsonValidity: TextMetric<number> = {
  name: "json-validity",
  row: (prediction) => (parseJson(prediction) ? 1 : 0),
  combine: (rows) => ({ jsonValid: meanOf(rows) }),
};

/** The share of predictions that are valid JSON and conform to a schema (compileSchema of json-schema.ts). */
export function jsonConformance(check: SchemaCheck): TextMetric<number> {
  return {
    name: "json-conformance",
    row: (prediction) => {
      const parsed = parseJson(prediction);
      return parsed && check(parsed.value) === undefined ? 1 : 0;
    },
    combine: (rows) => ({ jsonConforms: meanOf(rows) }),
  };
}
