// The JSON of a request: JavaScript's own numbers for the options that zod checks, and numbers as they were written in what
// chat templates print (a tool's "minimum": 0.0, an order number of 17 digits). Which keys a request may have: requests.ts.

import { losesInJson, parseExactJson, recordOf } from "../text/exact-json.ts";

const PRINTED = ["messages", "tools", "chat_template_kwargs"];

/** SyntaxError, as JSON.parse has it. */
export function parseRequestJson(text: string): unknown {
  const body: unknown = JSON.parse(text);
  const exact = losesInJson(text) ? recordOf(parseExactJson(text)) : undefined;
  if (exact === undefined) return body;
  for (const key of PRINTED) {
    if (!Object.hasOwn(exact, key)) continue;
    const value = exact[key];
    // Keys of messages and tools themselves are looked at by name.
    const plain = Array.isArray(value)
      ? value.map((one) => recordOf(one) ?? one)
      : (recordOf(value) ?? value);
    (body as Record<string, unknown>)[key] = plain;
  }
  return body;
}
