// Rows given as objects, under names that stand wherever a data file's path does: one set of readers serves both. They
// are kept as the bytes of the JSONL file they would be, so that hashes, line numbers and threads see no difference.
// Not here: reading files (read-rows.node.ts), which looks here first.

import { UserError } from "../util/errors.ts";

const kept = new Map<string, Uint8Array>();
let count = 0;

/** Rows that are named. Disposing of them forgets them. */
export interface NamedRows extends Disposable {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** UserError names the row that is no object or cannot be written as JSON. */
export function nameRows(rows: readonly object[]): NamedRows {
  const lines = rows.map((row, i) => {
    try {
      if (row === null || typeof row !== "object" || Array.isArray(row)) throw new Error("it is no object");
      return jsonOf(row);
    } catch (error) {
      throw new UserError(`rows: row ${i + 1} cannot be used: ${(error as Error).message}.`);
    }
  });
  const bytes = new TextEncoder().encode(lines.join("\n"));
  const name = `memory:${++count}`;
  return keepRows(name, bytes);
}

const bigintMark = `bigint ${Math.random()} `;
const markedBigints = new RegExp(`"${bigintMark.replace(".", "\\.")}(-?\\d+)"`, "g");

/** With integers beyond 2^53, which JavaScript holds as bigint, as numbers. */
function jsonOf(row: object): string {
  let found = false;
  const text = JSON.stringify(row, (_, value: unknown) => {
    if (typeof value !== "bigint") return value;
    found = true;
    return `${bigintMark}${value}`;
  });
  return found ? text.replace(markedBigints, "$1") : text;
}

/** Puts rows that another thread named under the same name here. */
export function keepRows(name: string, bytes: Uint8Array): NamedRows {
  kept.set(name, bytes);
  return { name, bytes, [Symbol.dispose]: () => void kept.delete(name) };
}

/** The bytes of rows with this name; undefined where the name is a path or a data set. */
export function rowsNamed(name: string): Uint8Array | undefined {
  return kept.get(name);
}
