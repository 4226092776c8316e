// Bytes of a data file to rows: JSON Lines, a JSON array, CSV and TSV, Parquet. Knows nothing of what keys mean
// (index.ts) nor of disks (read-rows.node.ts). Every mistake names its file and line or row.

import Papa from "papaparse";
import { parseExactJson, recordOf } from "../text/exact-json.ts";
import { UserError } from "../util/errors.ts";
import { readParquetGroups } from "./read-parquet.node.ts";
import { kindOf, type Row, type RowValue } from "./row.ts";

/** A longer line is a damaged file, not an example. */
const LINE_CAP_BYTES = 64 * 2 ** 20;
/** JSON arrays and CSV are decoded into one string, whose length V8 limits to about 2^29. */
export const TEXT_CAP_BYTES = 384 * 2 ** 20;
export const ROW_CAP = 20_000_000;

const NEWLINE = 0x0a;

/** One JSON object a line; blank lines are passed over, CRLF and a byte order mark are accepted. */
export function parseJsonLines(bytes: Uint8Array, file: string): Row[] {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const rows: Row[] = [];
  let start = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
  for (let line = 1; start < bytes.length; line++) {
    let end = bytes.indexOf(NEWLINE, start);
    if (end < 0) end = bytes.length;
    const where = `${file} line ${line}`;
    if (end - start > LINE_CAP_BYTES) {
      throw new UserError(`${where}: longer than ${LINE_CAP_BYTES} bytes; expected one JSON object a line.`);
    }
    const text = decode(decoder, bytes.subarray(start, end), where).trim();
    start = end + 1;
    if (text === "") continue;
    rows.push({ id: { file, line, unit: "line" }, value: asRow(parse(text, where), where) });
    if (rows.length > ROW_CAP) throw tooManyRows(file);
  }
  return rows;
}

/** One array of objects. */
export function parseJsonArray(bytes: Uint8Array, file: string): Row[] {
  const text = wholeText(bytes, file, "JSON Lines (one object a line)");
  let value: unknown;
  try {
    value = parseExactJson(text);
  } catch (error) {
    const message = (error as Error).message;
    const position = /at position (\d+)/.exec(message)?.[1];
    const line = position === undefined ? "" : ` line ${text.slice(0, Number(position)).split("\n").length}`;
    throw new UserError(`${file}${line}: not valid JSON: ${message}`);
  }
  if (!Array.isArray(value))
    throw new UserError(`${file}: expected an array of rows, found ${kindOf(value)}.`);
  if (value.length > ROW_CAP) throw tooManyRows(file);
  return value.map((row: unknown, i) => ({
    id: { file, line: i + 1, unit: "row" },
    value: asRow(row, `${file} row ${i + 1}`),
  }));
}

/** A header line, then rows; every field is text, and formats read the JSON in it. `separator` undefined: guessed. */
export function parseCsv(bytes: Uint8Array, file: string, separator?: string): Row[] {
  const text = wholeText(bytes, file, "JSON Lines");
  const parsed = Papa.parse<string[]>(text, {
    header: false,
    skipEmptyLines: true,
    delimiter: separator ?? "",
  });
  const problem = parsed.errors.find((error) => error.code !== "UndetectableDelimiter");
  if (problem !== undefined) {
    throw new UserError(`${file} row ${(problem.row ?? 0) || 1}: not valid CSV: ${problem.message}.`);
  }
  const [header, ...records] = parsed.data;
  if (header === undefined) return [];
  if (records.length > ROW_CAP) throw tooManyRows(file);
  const repeated = header.find((name, i) => header.indexOf(name) !== i);
  if (repeated !== undefined) {
    throw new UserError(`${file}: the header names the column ${JSON.stringify(repeated)} twice.`);
  }
  return records.map((record, i) => {
    const where = `${file} row ${i + 1}`;
    if (record.length !== header.length) {
      throw new UserError(
        `${where}: ${record.length} fields, but the header names ${header.length} columns.`,
      );
    }
    const value = Object.fromEntries(header.map((name, j) => [name, record[j]!]));
    return { id: { file, line: i + 1, unit: "row" }, value };
  });
}

/** Parquet, read in a thread of its own; what becomes of its values is in parquet-values.ts. */
export async function parseParquet(bytes: Uint8Array, file: string): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const group of readParquetGroups(bytes, file)) {
    for (const value of group) {
      const line = rows.length + 1;
      rows.push({ id: { file, line, unit: "row" }, value: asRow(value, `${file} row ${line}`) });
    }
    if (rows.length > ROW_CAP) throw tooManyRows(file);
  }
  return rows;
}

function asRow(value: unknown, where: string): RowValue {
  const row = recordOf(value);
  if (row !== undefined) return row;
  throw new UserError(
    `${where}: expected an object such as {"prompt", "completion"}, found ${kindOf(value)}.`,
  );
}

function parse(text: string, where: string): unknown {
  try {
    return parseExactJson(text);
  } catch (error) {
    throw new UserError(`${where}: not valid JSON: ${(error as Error).message}`);
  }
}

function decode(decoder: TextDecoder, bytes: Uint8Array, where: string): string {
  try {
    return decoder.decode(bytes);
  } catch {
    throw new UserError(`${where}: the text is not valid UTF-8; convert the file to UTF-8.`);
  }
}

function wholeText(bytes: Uint8Array, file: string, instead: string): string {
  if (bytes.length > TEXT_CAP_BYTES) {
    throw new UserError(
      `${file}: too large for this format (${bytes.length} bytes); write it as ${instead}.`,
    );
  }
  return decode(new TextDecoder("utf-8", { fatal: true }), bytes, file);
}

function tooManyRows(file: string): UserError {
  return new UserError(`${file}: more than ${ROW_CAP} rows; split the data.`);
}
