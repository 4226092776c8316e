// The registry of row formats, and the way from rows to examples: all rows of a data set have one format, found
// from the first. A new format is one file here and one line below. Reading files: read-rows.node.ts.

import { UserError } from "../util/errors.ts";
import { alpaca } from "./alpaca.ts";
import { messages } from "./messages.ts";
import { preferencePairs } from "./preference-pairs.ts";
import { promptCompletion } from "./prompt-completion.ts";
import { questionAnswer } from "./question-answer.ts";
import { ratedAnswers } from "./rated-answers.ts";
import {
  type Example,
  type LearntExample,
  type Row,
  type RowFormat,
  type RowId,
  type RowsWanted,
  type RowValue,
  rowLabel,
} from "./row.ts";
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
  preferencePairs,
  ratedAnswers,
} satisfies Record<string, RowFormat>;

const formats: readonly RowFormat[] = Object.values(rowFormats);

export interface ExampleRow<E = Example> {
  readonly id: RowId;
  readonly example: E;
}

export interface Examples<E = Example> {
  readonly format: RowFormat;
  readonly rows: readonly ExampleRow<E>[];
  /** Keys that rows ("id") or their messages ("messages[].id") have and nobody reads, with how many rows have them. */
  readonly ignoredKeys: Readonly<Record<string, number>>;
}

/** Rows as examples of what is wanted. UserError when a row has no known format, or another than the first row. */
export function toExamples(rows: readonly Row[]): Examples<LearntExample>;
export function toExamples(rows: readonly Row[], wanted: RowsWanted | undefined): Examples;
export function toExamples(rows: readonly Row[], wanted: RowsWanted = "targets"): Examples {
  const reader = new ExampleReader(wanted);
  const read = rows.map((row) => reader.read(row));
  const examples = reader.splitsPairs ? eachRated(read) : read;
  return { format: reader.format, rows: examples, ignoredKeys: reader.ignoredKeys };
}

/** More keys than these are not listed; what a row names its keys is anyone's to write. */
const LISTED_KEYS = 1000;

/** The same, a row at a time. */
export class ExampleReader {
  private readonly ignored = new Map<string, number>();
  private found: RowFormat | undefined;
  private known: ReadonlySet<string> = new Set();

  constructor(private readonly wanted: RowsWanted = "targets") {}

  /** UserError as long as no row was read. */
  get format(): RowFormat {
    if (this.found === undefined) throw new UserError("the data has no rows.");
    return this.found;
  }

  get ignoredKeys(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.ignored);
  }

  /** Whether what was read are pairs where ratings are wanted: eachRated() makes them of all rows together. */
  get splitsPairs(): boolean {
    return this.wanted === "ratings" && this.found?.gives === "pairs";
  }

  read({ id, value }: Row): ExampleRow {
    const where = rowLabel(id);
    const own = formatOf(value, where, this.wanted);
    if (this.found === undefined) {
      this.found = own;
      this.known = new Set(own.keys);
    }
    const { found: format, known, ignored } = this;
    if (own !== format) {
      throw new UserError(
        `${where}: a ${own.shape} row among ${format.shape} rows; all rows of a data set must have one format. Rows of several formats can be given as several data sets.`,
      );
    }
    const unread = new Set<string>();
    for (const [key, held] of Object.entries(value)) if (held !== null && !known.has(key)) unread.add(key);
    const example = format.toExample(value, where, (key) => unread.add(key));
    for (const key of unread) {
      const count = ignored.get(key);
      if (count !== undefined || ignored.size < LISTED_KEYS) ignored.set(key, (count ?? 0) + 1);
    }
    return { id, example };
  }
}

/** Pairs where ratings are wanted: all chosen answers, then all rejected ones, so that neighbours have other prompts. */
export function eachRated(rows: readonly ExampleRow[]): ExampleRow[] {
  return [true, false].flatMap((label) =>
    rows.flatMap(({ id, example }) => {
      const own = example.kind === "alternatives" ? example.each[label ? 0 : 1] : undefined;
      return own ? [{ id, example: { kind: "alternatives" as const, each: [own], label } }] : [];
    }),
  );
}

/** The format of one row. */
export function formatOf(row: RowValue, where: string, wanted: RowsWanted = "targets"): RowFormat {
  const formats = formatsOf(wanted);
  if (wanted === "targets") refusePreferences(row, where);
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
  const expected = shapes.length > 1 ? `${shapes.slice(0, -1).join(", ")} or ${shapes.at(-1)}` : shapes[0];
  throw new UserError(`${where}: expected ${expected}; found keys {${keys.join(", ")}}`);
}

/** In order of preference; ratings are made of pairs too. */
function formatsOf(wanted: RowsWanted): readonly RowFormat[] {
  const all = formats.filter(({ gives = "targets" }) => gives === wanted);
  return wanted === "ratings" ? [...all, preferencePairs] : all;
}

function refusePreferences(row: RowValue, where: string): void {
  if (isSet(row.chosen) || isSet(row.rejected)) {
    throw new UserError(
      `${where}: preference data ("chosen", "rejected") has two answers where one is read; train on it with --objective dpo, orpo, simpo or cpo, or, to learn or to measure the chosen answers alone, write them as {"messages"} or {"prompt", "completion"} rows.`,
    );
  }
  const label = typeof row.label === "boolean" ? "label" : "kto_tag";
  if (typeof row[label] === "boolean") {
    throw new UserError(
      `${where}: "${label}": ${row[label]} marks data rated good or bad; train on it with --objective kto, or keep only the good rows and remove the key.`,
    );
  }
}

const isSet = (value: unknown) => value !== undefined && value !== null;
