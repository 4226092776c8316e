// The types that the files of this room share: a row as it was read, and the example it stands for. Which keys
// make which example is in the format files (index.ts); how an example becomes token ids is in render.ts.

import type { ChatMessage } from "../text/chat-template.ts";
import { UserError } from "../util/errors.ts";

/** Where a row was read: its line in a JSONL file, its number (from 1) in the other kinds. */
export interface RowId {
  readonly file: string;
  readonly line: number;
  readonly unit: "line" | "row";
}

export type RowValue = Readonly<Record<string, unknown>>;

export interface Row {
  readonly id: RowId;
  readonly value: RowValue;
}

/** "train.jsonl line 17": how messages name a row. */
export function rowLabel(id: RowId): string {
  return `${id.file} ${id.unit} ${id.line}`;
}

export type Example =
  | { readonly kind: "text"; readonly text: string }
  | {
      readonly kind: "completion";
      readonly prompt: string;
      readonly completion: string;
      /** All acceptable answers, for metrics; absent: the completion alone. */
      readonly references?: readonly string[];
    }
  | {
      readonly kind: "instruction";
      readonly instruction: string;
      readonly input: string;
      readonly output: string;
    }
  | { readonly kind: "chat"; readonly messages: readonly ChatMessage[]; readonly tools?: readonly unknown[] };

/** What a format file exports. */
export interface RowFormat {
  readonly name: string;
  /** For messages: {"prompt", "completion"}. */
  readonly shape: string;
  /** Keys that it reads; others of a row are reported as ignored. */
  readonly keys: readonly string[];
  matches(row: RowValue): boolean;
  /** UserError, beginning with `where`, when a value has the wrong type. */
  toExample(row: RowValue, where: string): Example;
}

/** The string under `key`. */
export function stringAt(row: RowValue, key: string, where: string): string {
  const value = row[key];
  if (typeof value === "string") return value;
  throw new UserError(`${where}: ${JSON.stringify(key)} must be a string, found ${kindOf(value)}.`);
}

export function kindOf(value: unknown): string {
  if (value === null) return "null";
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "object") return "an object";
  return `a ${typeof value}`;
}

/** Tool definitions: an array, or an array written as JSON text (ShareGPT files, CSV). Absent or empty: undefined. */
export function toolsAt(row: RowValue, where: string): readonly unknown[] | undefined {
  let tools = row.tools;
  if (tools === undefined || tools === null || tools === "") return undefined;
  if (typeof tools === "string") {
    try {
      tools = JSON.parse(tools);
    } catch {
      throw new UserError(`${where}: "tools" is text that is not valid JSON; expected an array of tools.`);
    }
  }
  if (!Array.isArray(tools)) {
    throw new UserError(`${where}: "tools" must be an array of tools, found ${kindOf(tools)}.`);
  }
  return tools.length > 0 ? tools : undefined;
}
