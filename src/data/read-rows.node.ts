// Reads a data file from disk: chooses the parser by the file's ending and first character, and hashes the bytes
// for the cache of tokenised samples. The parsers themselves are in parse-rows.ts.

import { createHash } from "node:crypto";
import { basename, extname } from "node:path";
import { openFile } from "../formats/disk.ts";
import { locateData } from "../formats/locate-model.ts";
import { UserError } from "../util/errors.ts";
import { rowsNamed } from "./memory-rows.ts";
import { parseCsv, parseJsonArray, parseJsonLines, parseParquet } from "./parse-rows.ts";
import type { Row } from "./row.ts";

/** A Node Buffer holds no more, and fine-tuning data is far smaller. */
const FILE_CAP_BYTES = 2 ** 31 - 1;

export interface DataFile {
  readonly name: string;
  /** SHA-256 of the bytes, hex. */
  readonly hash: string;
  /** Parses; UserError when the file is malformed or has no rows. */
  rows(): Promise<Row[]>;
}

export async function readRows(path: string): Promise<Row[]> {
  return (await openDataFile(path)).rows();
}

/**
 * Reads and hashes the bytes; parsing waits until rows() is called, so that a cached data set never parses. The files of
 * a split are one data set: its rows are numbered through and named by the data set.
 */
export async function openDataFile(given: string): Promise<DataFile> {
  const inMemory = rowsNamed(given);
  if (inMemory) return dataFile("rows", ".jsonl", inMemory);
  const paths = locateData(given);
  const files: DataFile[] = [];
  for (const path of paths) files.push(await openOne(path));
  if (files.length === 1) return files[0]!;
  const hash = createHash("sha256");
  for (const file of files) hash.update(file.hash);
  return {
    name: given,
    hash: hash.digest("hex"),
    async rows() {
      const all: Row[] = [];
      for (const file of files) {
        for (const { value } of await file.rows())
          all.push({ id: { file: given, line: all.length + 1, unit: "row" }, value });
      }
      return all;
    },
  };
}

async function openOne(path: string): Promise<DataFile> {
  const name = basename(path);
  const kind = extname(path).toLowerCase();
  refuse(name, kind);
  const source = await openFile(path);
  let bytes: Uint8Array;
  try {
    if (source.size > FILE_CAP_BYTES) {
      throw new UserError(
        `${name}: ${source.size} bytes; at most ${FILE_CAP_BYTES} are read. Split the data into several runs or sample it.`,
      );
    }
    bytes = await source.read(0, source.size);
  } finally {
    await source.close();
  }
  return dataFile(name, kind, bytes);
}

function dataFile(name: string, kind: string, bytes: Uint8Array): DataFile {
  return {
    name,
    hash: createHash("sha256").update(bytes).digest("hex"),
    async rows() {
      const rows = await parse(bytes, name, kind);
      if (rows.length === 0) throw new UserError(`${name}: has no rows.`);
      return rows;
    },
  };
}

function parse(bytes: Uint8Array, name: string, kind: string): Row[] | Promise<Row[]> {
  if (kind === ".csv") return parseCsv(bytes, name);
  if (kind === ".tsv") return parseCsv(bytes, name, "\t");
  if (kind === ".parquet" || isParquet(bytes)) {
    return parseParquet(bytes, name);
  }
  // Files named .json are as often JSON Lines as arrays.
  return firstCharacter(bytes) === "[" ? parseJsonArray(bytes, name) : parseJsonLines(bytes, name);
}

function isParquet(bytes: Uint8Array): boolean {
  return String.fromCharCode(...bytes.subarray(0, 4)) === "PAR1";
}

function firstCharacter(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes.subarray(0, 4096)).trimStart().slice(0, 1);
}

function refuse(name: string, kind: string): void {
  if (kind === ".txt" || kind === ".md") {
    throw new UserError(
      `${name}: plain text has no rows. Write a .jsonl file with one {"text": "..."} object a line, one document each.`,
    );
  }
  if ([".gz", ".zip", ".zst", ".bz2", ".xz", ".7z"].includes(kind)) {
    throw new UserError(`${name}: compressed; unpack it first.`);
  }
  if (![".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ""].includes(kind)) {
    throw new UserError(`${name}: expected a .jsonl, .json, .csv, .tsv or .parquet file.`);
  }
}
