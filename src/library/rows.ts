// Rows as users of the library give them: a path (or hub name) as on the command line, or objects.

import type { DataSource } from "../data/data-source.ts";
import { nameRows } from "../data/memory-rows.ts";
import { UsageError } from "../util/errors.ts";

/** A JSONL, JSON, CSV or Parquet file, a data set on the hub, or the rows themselves. */
export type Rows = string | readonly object[];

/** Rows from several places, as the command's several --data; a source without a weight has weight 1 where others have one. */
export interface MixedRows {
  readonly sources: readonly (Omit<DataSource, "path"> & { readonly rows: Rows })[];
}

/** What an option of several sources takes in place of the rows, until it is disposed of. */
export function namedSourcesOf(
  data: Rows | MixedRows,
  option: string,
): Disposable & { readonly choice: string | readonly DataSource[] } {
  if (typeof data === "string" || !("sources" in data)) {
    refuseFilesAsRows(data, option);
    const named = namedRows(data as Rows, option);
    return { choice: named.name, [Symbol.dispose]: () => named[Symbol.dispose]() };
  }
  const named: Disposable[] = [];
  const release = () => {
    for (const each of named) each[Symbol.dispose]();
  };
  try {
    const choice = data.sources.map(({ rows, ...rest }) => {
      const one = namedRows(rows, option);
      named.push(one);
      return { ...rest, path: one.name };
    });
    return { choice, [Symbol.dispose]: release };
  } catch (error) {
    release();
    throw error;
  }
}

/** Files as a YAML file lists them would be taken for rows with a key "path". */
function refuseFilesAsRows(data: unknown, option: string): void {
  const [first] = Array.isArray(data) ? (data as readonly unknown[]) : [];
  if (typeof first === "string" || (typeof first === "object" && first !== null && isFile(first)))
    throw new UsageError(
      `${option}: a list holds the rows themselves; expected { sources: [{ rows: "F", weight: 2 }, ...] } for several files.`,
    );
}

function isFile(value: object): boolean {
  const keys = Object.keys(value);
  return typeof (value as { path?: unknown }).path === "string" && keys.every((key) => sourceKeys.has(key));
}

const sourceKeys: ReadonlySet<string> = new Set<keyof DataSource>([
  ...(["path", "weight", "limit", "trainOn", "chatTemplate", "columns"] as const),
]);

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
