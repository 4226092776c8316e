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
/** Blank ones among them. */
const LINES_CAP = 10 * ROW_CAP;

const NEWLINE = 0x0a;

/** One JSON object a line; blank lines are passed over, CRLF and a byte order mark are accepted. */
export function parseJsonLines(bytes: Uint8Array, file: string): Row[] {
  const lines = new JsonLines(file);
  return [...lines.push(bytes), ...lines.end()];
}

/** The same of a file that comes in pieces. */
export class JsonLines {
  private readonly decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  /** Of the line that has begun. */
  private begun: Uint8Array[] = [];
  private begunBytes = 0;
  private line = 1;
  private rows = 0;

  constructor(private readonly file: string) {}

  /** Rows of the lines that end within the piece, whose memory may be used again afterwards. */
  push(piece: Uint8Array): Row[] {
    const rows: Row[] = [];
    let start = 0;
    for (;;) {
      const end = piece.indexOf(NEWLINE, start);
      const part = piece.subarray(start, end < 0 ? piece.length : end);
      if (this.begunBytes + part.length > LINE_CAP_BYTES) {
        throw new UserError(
          `${this.file} line ${this.line}: longer than ${LINE_CAP_BYTES} bytes; expected one JSON object a line.`,
        );
      }
      if (end < 0) {
        if (part.length > 0) this.begun.push(part.slice());
        this.begunBytes += part.length;
        return rows;
      }
      this.take(part, rows);
      start = end + 1;
    }
  }

  /** The row of a last line without an end. */
  end(): Row[] {
    const rows: Row[] = [];
    this.take(new Uint8Array(0), rows);
    return rows;
  }

  private take(part: Uint8Array, into: Row[]): void {
    let bytes = part;
    if (this.begunBytes > 0) {
      bytes = new Uint8Array(this.begunBytes + part.length);
      let at = 0;
      for (const piece of [...this.begun, part]) {
        bytes.set(piece, at);
        at += piece.length;
      }
      this.begun = [];
      this.begunBytes = 0;
    }
    const line = this.line++;
    if (line > LINES_CAP) throw new UserError(`${this.file}: more than ${LINES_CAP} lines; split the data.`);
    if (line === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) bytes = bytes.subarray(3);
    if (bytes.length === 0) return;
    const where = `${this.file} line ${line}`;
    const text = decode(this.decoder, bytes, where).trim();
    if (text === "") return;
    into.push({ id: { file: this.file, line, unit: "line" }, value: asRow(parse(text, where), where) });
    if (++this.rows > ROW_CAP) throw tooManyRows(this.file);
  }
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

/** Parquet, read in a thread of its own, a row group at a time; what becomes of its values is in parquet-values.ts. */
export async function* parseParquet(bytes: Uint8Array, file: string): AsyncGenerator<Row[]> {
  let line = 0;
  for await (const group of readParquetGroups(bytes, file)) {
    yield group.map((value) => {
      line++;
      return { id: { file, line, unit: "row" as const }, value: asRow(value, `${file} row ${line}`) };
    });
    if (line > ROW_CAP) throw tooManyRows(file);
  }
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

/** By the first bytes of gzip and zstd, which no text begins with. */
function packedEnding(bytes: Uint8Array): string | undefined {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) return ".gz";
  return [0x28, 0xb5, 0x2f, 0xfd].every((byte, i) => bytes[i] === byte) ? ".zst" : undefined;
}

function decode(decoder: TextDecoder, bytes: Uint8Array, where: string): string {
  try {
    return decoder.decode(bytes);
  } catch {
    const ending = packedEnding(bytes);
    if (ending)
      throw new UserError(`${where}: the file is packed; rename it so that its name ends with ${ending}.`);
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
