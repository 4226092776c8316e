// The registry of row formats, and the way from rows to examples: all rows of a data set have one format, found
// from the first. A new format is one file here and one line below. Reading files: read-rows.node.ts.

import { UserError } from "../util/errors.ts";
import { alpaca } from "./alpaca.ts";
import { messages } from "./messages.ts";
import { promptCompletion } from "./prompt-completion.ts";
import { questionAnswer } from "./question-answer.ts";
import { type Example, type Row, type RowFormat, type RowId, type RowValue, rowLabel } from "./row.ts";
import { sharegpt } from "./sharegpt.ts";
import { text } from "./text.ts";

/** In order of preference: a row with "messages" and "text" is a conversation. */
export const rowFormats = {
  messages,
  sharegpt,
  promptCompletion,
  alpaca,
  questionAnswer,
  text,
} satisfies Record<string, RowFormat>;

const formats: readonly RowFormat[] = Object.values(rowFormats);

export interface ExampleRow {
  readonly id: RowId;
  readonly example: Example;
}

export interface Examples {
  readonly format: RowFormat;
  readonly rows: readonly ExampleRow[];
  /** Keys that rows ("id") or their messages ("messages[].id") have and nobody reads, with how many rows have them. */
  readonly ignoredKeys: Readonly<Record<string, number>>;
}

/** Rows as examples. UserError when a row has no known format, or another than the first row. */
export function toExamples(rows: readonly Row[]): Examples {
  const first = rows[0];
  if (first === undefined) throw new UserError("the data has no rows.");
  const format = formatOf(first.value, rowLabel(first.id));
  const ignored = new Map<string, number>();
  const known = new Set(format.keys);
  const examples = rows.map(({ id, value }) => {
    const where = rowLabel(id);
    const own = formatOf(value, where);
    if (own !== format) {
      throw new UserError(
        `${where}: a ${own.shape} row among ${format.shape} rows; all rows of a data set must have one format.`,
      );
    }
    const unread = new Set<string>();
    for (const [key, held] of Object.entries(value)) if (held !== null && !known.has(key)) unread.add(key);
    const example = format.toExample(value, where, (key) => unread.add(key));
    for (const key of unread) ignored.set(key, (ignored.get(key) ?? 0) + 1);
    return { id, example };
  });
  return { format, rows: examples, ignoredKeys: Object.fromEntries(ignored) };
}

/** The format of one row. */
export function formatOf(row: RowValue, where: string): RowFormat {
  if (isSet(row.chosen) || isSet(row.rejected)) {
    throw new UserError(
      `${where}: preference data ("chosen", "rejected") cannot be trained on; write the chosen answers as {"messages"} or {"prompt", "completion"} rows.`,
    );
  }
  if (typeof row.label === "boolean") {
    throw new UserError(
      `${where}: "label": ${row.label} marks data rated good or bad; keep only the good rows and remove the key.`,
    );
  }
  // A row of which no format can read the values belongs to the first that knows its keys, which then says what is wrong.
  const format =
    formats.find((candidate) => candidate.matches(row)) ??
    formats.find(({ needs }) => needs.some((key) => isSet(row[key])) && needs.every((key) => key in row)) ??
    formats.find(({ needs }) => needs.every((key) => key in row));
  if (format !== undefined) return format;
  const shapes = formats.map((candidate) => candidate.shape);
  const keys = Object.keys(row)
    .slice(0, 12)
    .map((key) => JSON.stringify(key.slice(0, 40)));
  throw new UserError(
    `${where}: expected ${shapes.slice(0, -1).join(", ")} or ${shapes.at(-1)}; found keys {${keys.join(", ")}}`,
  );
}

const isSet = (value: unknown) => value !== undefined && value !== null;
