// Reads data files from disk, a piece at a time: finds them (data-files.node.ts), chooses the parser by ending and first
// character, and hashes the bytes for the cache of tokenised samples. The parsers themselves are in parse-rows.ts.

import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { openFile, READ_WITHOUT_WAITING } from "../formats/disk.ts";
import { UserError } from "../util/errors.ts";
import { dataKinds, type FoundFile, findDataFiles } from "./data-files.node.ts";
import { rowsNamed } from "./memory-rows.ts";
import { JsonLines, parseCsv, parseJsonArray, parseParquet, TEXT_CAP_BYTES } from "./parse-rows.ts";
import type { Row } from "./row.ts";
import { endingOf, unpackedBytes } from "./unpack.node.ts";

/** A Node Buffer holds no more; only JSON Lines are read in pieces. */
const WHOLE_CAP_BYTES = 2 ** 31 - 1;

export interface DataFile {
  readonly name: string;
  /** SHA-256 of the bytes, hex. */
  readonly hash: string;
  /** In pieces; UserError when a file is malformed or has no rows. */
  rows(): AsyncGenerator<Row[]>;
}

export async function readRows(path: string): Promise<Row[]> {
  const all: Row[] = [];
  for await (const rows of (await openDataFile(path)).rows()) for (const row of rows) all.push(row);
  return all;
}

/**
 * Hashes the bytes; reading rows waits until rows() is called, so that a cached data set never parses. The files of a split
 * are one data set: its rows are numbered through and named by the data set. Those of a folder or a pattern keep their names.
 * With `wholeName`, files are named by their whole path.
 */
export async function openDataFile(given: string, wholeName = false): Promise<DataFile> {
  const inMemory = rowsNamed(given);
  const name = wholeName ? given : "rows";
  if (inMemory) return dataFile(name, sha256(inMemory), () => memoryRows(inMemory, name));
  const { files: found, set } = await findDataFiles(given);
  const files: DataFile[] = [];
  for (const { path, name } of found) files.push(await openOne({ path, name: wholeName ? path : name }));
  if (files.length === 1) return files[0]!;
  const hash = createHash("sha256");
  for (const file of files) hash.update(file.hash);
  return {
    name: given,
    hash: hash.digest("hex"),
    async *rows() {
      let line = 0;
      for (const file of files) {
        for await (const rows of file.rows()) {
          if (set === undefined) yield rows;
          else
            yield rows.map(({ value }) => ({ id: { file: set, line: ++line, unit: "row" as const }, value }));
        }
      }
    },
  };
}

async function openOne({ path, name }: FoundFile): Promise<DataFile> {
  const { kind, packing } = endingOf(path);
  refuse(name, kind, packing);
  const source = await openFile(path);
  await source.close();
  const hash = await hashOf(path);
  return dataFile(name, hash, () => fileRows(path, name, kind, packing));
}

function dataFile(name: string, hash: string, read: () => AsyncIterable<Row[]>): DataFile {
  return {
    name,
    hash,
    async *rows() {
      let any = false;
      for await (const rows of read()) {
        if (rows.length === 0) continue;
        any = true;
        yield rows;
      }
      if (!any) throw new UserError(`${name}: has no rows.`);
    },
  };
}

async function* memoryRows(bytes: Uint8Array, name: string): AsyncGenerator<Row[]> {
  const lines = new JsonLines(name);
  yield lines.push(bytes);
  yield lines.end();
}

async function* fileRows(
  path: string,
  name: string,
  kind: string,
  packing: ReturnType<typeof endingOf>["packing"],
): AsyncGenerator<Row[]> {
  const pieces = unpackedBytes(path, name, packing);
  const first = await pieces.next();
  const start = first.done ? new Uint8Array(0) : first.value;
  const whole = async () => wholeFile(path, name, packing, start, pieces);
  if (kind === ".csv") yield parseCsv(await whole(), name);
  else if (kind === ".tsv") yield parseCsv(await whole(), name, "\t");
  else if (kind === ".parquet" || isParquet(start)) yield* parseParquet(await whole(), name);
  // Files named .json are as often JSON Lines as arrays.
  else if (firstCharacter(start) === "[") yield parseJsonArray(await whole(), name);
  else {
    const lines = new JsonLines(name);
    yield lines.push(start);
    for await (const piece of pieces) yield lines.push(piece);
    yield lines.end();
  }
}

async function wholeFile(
  path: string,
  name: string,
  packing: string | undefined,
  start: Uint8Array,
  rest: AsyncIterable<Uint8Array>,
): Promise<Uint8Array> {
  const most = packing === undefined ? WHOLE_CAP_BYTES : TEXT_CAP_BYTES;
  const tooLarge = () =>
    new UserError(
      `${name}: more than ${most} bytes, which this format is not read in pieces for; write it as .jsonl, which may be of any size.`,
    );
  if (packing === undefined) {
    await (rest as AsyncGenerator).return(undefined);
    const source = await openFile(path);
    try {
      if (source.size > most) throw tooLarge();
      return await source.read(0, source.size);
    } finally {
      await source.close();
    }
  }
  const pieces = [start];
  let size = start.length;
  for await (const piece of rest) {
    pieces.push(piece);
    size += piece.length;
    if (size > most) throw tooLarge();
  }
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  const handle = await open(path, READ_WITHOUT_WAITING);
  try {
    const piece = new Uint8Array(2 ** 20);
    for (;;) {
      const { bytesRead } = await handle.read(piece, 0, piece.length);
      if (bytesRead === 0) return hash.digest("hex");
      hash.update(piece.subarray(0, bytesRead));
    }
  } finally {
    await handle.close();
  }
}

function isParquet(bytes: Uint8Array): boolean {
  return String.fromCharCode(...bytes.subarray(0, 4)) === "PAR1";
}

function firstCharacter(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes.subarray(0, 4096)).trimStart().slice(0, 1);
}

function refuse(name: string, kind: string, packing: string | undefined): void {
  if (kind === ".txt" || kind === ".md") {
    throw new UserError(
      `${name}: plain text has no rows. Write a .jsonl file with one {"text": "..."} object a line, one document each.`,
    );
  }
  if ([".zip", ".bz2", ".xz", ".7z", ".tar", ".tgz"].includes(kind)) {
    throw new UserError(`${name}: packed; unpack it first. Of packed files only .gz and .zst are read.`);
  }
  if (packing !== undefined && kind === ".parquet") {
    throw new UserError(`${name}: Parquet is compressed within; unpack the file first.`);
  }
  if (![...dataKinds, ""].includes(kind)) {
    throw new UserError(
      `${name}: expected a ${dataKinds.join(", ")} file, also packed as .gz or .zst, a folder of them or a pattern.`,
    );
  }
}
