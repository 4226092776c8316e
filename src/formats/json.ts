// JSON files of models and adapters: size-capped, decoded strictly, with the line and column of a mistake in the
// message. What the keys mean is each format's own affair.

import { UserError } from "../util/errors.ts";
import type { ByteSource } from "./byte-source.ts";

export type JsonObject = { readonly [key: string]: unknown };

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Reads a whole source as one JSON object. UserError when it is longer than `capBytes`, not UTF-8 or not an object. */
export async function readJsonObject(source: ByteSource, capBytes: number): Promise<JsonObject> {
  if (source.size > capBytes) {
    throw new UserError(
      `${source.name}: ${source.size} bytes is too large for this file (at most ${capBytes} bytes are read).`,
    );
  }
  const value = parseJson(await source.read(0, source.size), source.name);
  if (!isJsonObject(value)) throw new UserError(`${source.name}: expected a JSON object, {...}.`);
  return value;
}

/** Decodes UTF-8 JSON; `where` begins the message of the UserError. */
export function parseJson(bytes: Uint8Array, where: string): unknown {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new UserError(`${where}: the text is not valid UTF-8.`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${where}: not valid JSON${placeOf(error, text)}.`);
  }
}

// V8 states the position of most mistakes as "at position N" and never that of a cut end.
function placeOf(error: unknown, text: string): string {
  const message = (error as Error).message;
  if (text.trim() === "") return ": the text is empty";
  const match = /^(.*?)(?: in JSON)? at position (\d+)/s.exec(message);
  if (!match)
    return /end of JSON/.test(message) ? ": it ends before the last bracket closes" : `: ${message}`;
  const position = Number(match[2]);
  if (position >= text.trimEnd().length) return ": it ends before the last bracket closes";
  const before = text.slice(0, position);
  const line = before.split("\n").length;
  const column = position - before.lastIndexOf("\n");
  return `, line ${line} column ${column}: ${match[1]}`;
}
