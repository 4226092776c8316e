// Rows as users of the library give them: a path (or hub name) as on the command line, or objects.

import { nameRows } from "../data/memory-rows.ts";
import { UsageError } from "../util/errors.ts";

/** A JSONL, JSON, CSV or Parquet file, a data set on the hub, or the rows themselves. */
export type Rows = string | readonly object[];

/** Runs `use` with a name for the rows that any option of kind data takes. */
export async function withRows<T>(rows: Rows, use: (name: string) => Promise<T>): Promise<T> {
  using named = namedRows(rows, "data");
  return await use(named.name);
}

/** A name that stands for the rows until it is disposed of. */
export function namedRows(rows: Rows, option: string): Disposable & { readonly name: string } {
  if (typeof rows === "string") return { name: rows, [Symbol.dispose]() {} };
  if (!Array.isArray(rows) || rows.length === 0)
    throw new UsageError(`${option}: expected a path or a non-empty array of rows.`);
  return nameRows(rows);
}
