// The arguments of a tool call, which chat APIs write as JSON text: the one place where that text becomes an object and
// an object becomes that text, numbers and the order of keys as they were. Which of the two a template wants:
// tool-arguments.ts.

import { parseExactJson } from "./exact-json.ts";
import { exactJsonText } from "./template-values.ts";

/** The object that a text spells (a Map where exact-json.ts makes one), {} for a blank one; undefined for other text. */
export function parseArguments(text: string): object | undefined {
  if (text.trim() === "") return {};
  try {
    const value = parseExactJson(text);
    const isObject = typeof value === "object" && value !== null;
    return isObject && !Array.isArray(value) && !(value instanceof Number) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** JSON text with a space after commas and colons, as Python's json.dumps and the tojson filter write it. */
export function argumentsText(value: unknown): string {
  return exactJsonText(value);
}
