// JSON files of models and adapters: size-capped, decoded strictly, with the line and column of a mistake in the
// message. What the keys mean is each format's own affair.

import { UserError } from "../util/errors.ts";
import { isNestedBeyond, NESTING_CAP } from "../util/nesting.ts";
import type { ByteSource } from "./byte-source.ts";
import { noteWholeFloats, stringifyLike } from "./whole-floats.ts";

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
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new UserError(`${where}: not valid JSON${placeOf(text)}.`);
  }
  if (isNestedBeyond(value))
    throw new UserError(`${where}: lists and objects stand in each other more than ${NESTING_CAP} times.`);
  noteWholeFloats(text, value);
  return value;
}

/** Where the mistake is, found anew: V8 states the position of some mistakes only. */
function placeOf(text: string): string {
  if (text.trim() === "") return ": the text is empty";
  let position: number;
  try {
    position = skipValue(text, 0);
    position = skipBlank(text, position);
  } catch (error) {
    if (!(error instanceof Mistake)) return ""; // nested too deeply to look for it
    position = error.position;
  }
  if (position >= text.length) return ": it ends before the last bracket or quote closes";
  const line = text.slice(0, position).split("\n").length;
  const column = position - text.lastIndexOf("\n", position - 1);
  return `, line ${line} column ${column}: unexpected ${JSON.stringify(text[position])}`;
}

class Mistake {
  constructor(readonly position: number) {}
}

const scalar =
  /"(?:[^"\\\p{Cc}]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/uy;

/** The position after the value that starts at `position`, blanks before it skipped. */
function skipValue(text: string, position: number): number {
  let at = skipBlank(text, position);
  const open = text[at];
  if (open !== "{" && open !== "[") return skipScalar(text, at);
  const close = open === "{" ? "}" : "]";
  at = skipBlank(text, at + 1);
  if (text[at] === close) return at + 1;
  while (true) {
    if (open === "{") {
      at = skipBlank(text, at);
      if (text[at] !== '"') throw new Mistake(at);
      at = skipBlank(text, skipScalar(text, at));
      if (text[at] !== ":") throw new Mistake(at);
      at++;
    }
    at = skipBlank(text, skipValue(text, at));
    if (text[at] === close) return at + 1;
    if (text[at] !== ",") throw new Mistake(at);
    at++;
  }
}

function skipScalar(text: string, at: number): number {
  scalar.lastIndex = at;
  const found = scalar.exec(text);
  if (found) return at + found[0].length;
  // An open string at the end of the text is cut off; elsewhere its start is what can be shown.
  throw new Mistake(text[at] === '"' && !text.slice(at).includes("\n") ? text.length : at);
}

function skipBlank(text: string, position: number): number {
  let at = position;
  while (at < text.length && " \t\n\r".includes(text[at]!)) at++;
  return at;
}

/** Keys that Python's readers of config files want as floats: some refuse or complain of 6 where they expect 6.0. */
const floatKeys = [
  "attention_dropout",
  "attention_factor",
  "beta_fast",
  "beta_slow",
  "factor",
  "high_freq_factor",
  "llm_int8_threshold",
  "lora_dropout",
  "low_freq_factor",
  "partial_rotary_factor",
  "repetition_penalty",
  "rope_theta",
  "router_aux_loss_coef",
  "router_jitter_noise",
  "swiglu_alpha",
  "swiglu_limit",
  "temperature",
  "top_p",
];
const wholeFloat = new RegExp(`^( *"(?:${floatKeys.join("|")})": -?\\d+)(,?)$`, "gm");

/**
 * Indented JSON with a final newline. JavaScript has lost the ".0" of whole floats; those of `floatKeys` get it back, and
 * those that the file has where `like` was read from.
 */
export function jsonText(value: JsonObject, like: JsonObject = value): string {
  return `${stringifyLike(value, like).replace(wholeFloat, "$1.0$2")}\n`;
}
