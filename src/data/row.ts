// The types that the files of this room share: a row as it was read, and the example it stands for. Which keys
// make which example is in the format files (index.ts); how an example becomes token ids is in render.ts.

import type { ChatMessage } from "../text/chat-template.ts";
import { parseExactJson, recordOf } from "../text/exact-json.ts";
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

/**
 * What samples must hold. targets: any that are learnt; pairs: a chosen and a rejected completion; ratings: one and its
 * label; prompts: nothing but a prompt, whose completions the model writes (prompts.node.ts).
 */
export type RowsWanted = "targets" | "pairs" | "ratings" | "prompts";

/** One that says what is learnt, or several of one prompt that are held against each other. */
export type Example =
  | LearntExample
  | {
      readonly kind: "alternatives";
      /** Chosen and rejected, or the one that is rated. */
      readonly each: readonly LearntExample[];
      readonly label?: boolean;
    };

export type LearntExample =
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
  | {
      readonly kind: "chat";
      readonly messages: readonly ChatMessage[];
      readonly tools?: readonly unknown[];
      /** By message, what its marks say about the loss (loss-marks.ts); absent when no message has one. */
      readonly marks?: readonly (boolean | undefined)[];
      /** The first message of the completion, where prompt and completion are lists. */
      readonly completionFrom?: number;
    };

/** Told of each key that a row or one of its messages has and nobody reads: "id", "messages[].weigth". */
export type Note = (key: string) => void;

/** What a format file exports. */
export interface RowFormat {
  readonly name: string;
  /** For messages: {"prompt", "completion"}. */
  readonly shape: string;
  /** Keys that it reads; others of a row are reported as ignored. */
  readonly keys: readonly string[];
  /** Keys without which no row has this format. */
  readonly needs: readonly string[];
  /** What its examples are; targets when absent. */
  readonly gives?: RowsWanted;
  /** Whether the values can be read, not only whether the keys are there: files of several sources hold nulls. */
  matches(row: RowValue): boolean;
  /** UserError, beginning with `where`, when a value has the wrong type. */
  toExample(row: RowValue, where: string, note: Note): Example;
}

/** The string under `key`. */
export function stringAt(row: RowValue, key: string, where: string): string {
  const value = row[key];
  if (typeof value === "string") return value;
  throw new UserError(`${where}: ${JSON.stringify(key)} must be a string, found ${kindOf(value)}.`);
}

/** Whether all are strings, and not all of them empty, as the columns of other rows are in a CSV file. */
export function isText(...values: readonly unknown[]): boolean {
  return values.every((value) => typeof value === "string") && values.some((value) => value !== "");
}

export function kindOf(value: unknown): string {
  if (value === null) return "null";
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "bigint" || value instanceof Number) return "a number";
  if (typeof value === "object") return "an object";
  return `a ${typeof value}`;
}

/** The value under `key`, read where it is JSON text ("" is nothing): columns of text are all that some files have. */
export function jsonTextAt(row: RowValue, key: string, where: string): unknown {
  const value = row[key];
  if (typeof value !== "string" || value.trim() === "")
    return value === undefined || value === "" ? null : value;
  try {
    return parseExactJson(value);
  } catch {
    const python = /^\s*[[{].*'/s.test(value) ? " It looks printed by Python; write it with json.dumps." : "";
    throw new UserError(`${where}: ${JSON.stringify(key)} is text that is not valid JSON.${python}`);
  }
}

/** Tool definitions: an array, or an array written as JSON text (ShareGPT files, CSV). Absent or empty: undefined. */
export function toolsAt(row: RowValue, key: string, where: string): readonly unknown[] | undefined {
  const tools = jsonTextAt(row, key, where);
  if (tools === null) return undefined;
  if (!Array.isArray(tools)) {
    throw new UserError(
      `${where}: ${JSON.stringify(key)} must be an array of tools, found ${kindOf(tools)}.`,
    );
  }
  if (tools.length === 0) return undefined;
  // Arrow wants one schema for all items of a list, so files of it often hold each tool as JSON text.
  return tools.map((tool: unknown, i) => {
    const read = jsonTextAt({ tool }, "tool", `${where}, ${JSON.stringify(key)} item ${i + 1}`);
    if (recordOf(read) !== undefined) return read;
    throw new UserError(
      `${where}: ${JSON.stringify(key)} item ${i + 1} must be an object that describes a tool, found ${kindOf(tool)}.`,
    );
  });
}

/** Bare function descriptions get the wrapper that chat templates expect. */
export function asTool(tool: unknown): unknown {
  const record = recordOf(tool);
  return record === undefined || "function" in record ? tool : { type: "function", function: tool };
}
