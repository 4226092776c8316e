// The guards of Parquet: claims of page headers that cannot be, and a reading thread that does not come to its end. The
// threads here are stand-ins that loop or fill their memory by themselves.

import { type FileMetaData, parquetMetadata } from "hyparquet";
import { describe, expect, it } from "vitest";
import { checkPages } from "../../src/data/parquet-pages.ts";
import { readingBounds, readParquetGroups } from "../../src/data/read-parquet.node.ts";
import { UserError } from "../../src/util/errors.ts";
import { parquetSample } from "./parquet-sample.ts";

const arrayBuffer = new Uint8Array(parquetSample).buffer;

type Writable<T> = { -readonly [K in keyof T]: T[K] };

describe("page headers", () => {
  const damaged = (change: (metadata: FileMetaData, column: Writable<Column>) => void) => () => {
    const metadata = parquetMetadata(arrayBuffer);
    change(metadata, metadata.row_groups[0]!.columns[0]!.meta_data!);
    checkPages(metadata, parquetSample);
  };
  type Column = NonNullable<FileMetaData["row_groups"][0]["columns"][0]["meta_data"]>;

  it("of a sound file are let through", () => {
    expect(damaged(() => {})).not.toThrow();
  });

  it.each<[string, (metadata: FileMetaData, column: Writable<Column>) => void, RegExp]>([
    ["values beyond reason", (_, column) => (column.num_values = 2n ** 40n), /claims 1099511627776 values/],
    ["fewer values than its pages", (_, column) => (column.num_values = 1n), /more than its column has/],
    ["a column beyond the file", (_, column) => (column.total_compressed_size = 10n ** 6n), /lies from byte/],
    ["a column that is cut", (_, column) => (column.total_compressed_size = 40n), /more than its column has/],
    ["a negative size", (_, column) => (column.total_compressed_size = -5n), /lies from byte/],
    ["a page in the middle of another", (_, column) => (column.data_page_offset += 3n), /./],
    [
      "rows beyond reason",
      (metadata) => (metadata.row_groups[0]!.num_rows = 2n ** 33n),
      /rows in its row groups/,
    ],
    ["another count of rows", (metadata) => (metadata.num_rows = 3n), /3 rows by its footer and 2/],
    [
      "a negative count of rows",
      (metadata) => (metadata.row_groups[0]!.num_rows = -1n),
      /a row group of -1 rows/,
    ],
  ])("that claim %s are refused", (_, change, message) => {
    const check = damaged((metadata, column) => {
      if (column.dictionary_page_offset) column.dictionary_page_offset = undefined;
      change(metadata, column);
    });
    expect(check).toThrow(message);
  });

  it("hold to the bound of a page", () => {
    const metadata = parquetMetadata(arrayBuffer);
    const bounds = { rows: 10, values: 100, pageBytes: 1 };
    expect(() => checkPages(metadata, parquetSample, bounds)).toThrow(/bytes unpacked/);
  });
});

describe("the reading thread", () => {
  const module = (source: string) => new URL(`data:text/javascript,${encodeURIComponent(source)}`);
  const read = async (source: string, bounds = readingBounds) => {
    const rows: unknown[] = [];
    const groups = readParquetGroups(new Uint8Array(8), "x.parquet", bounds, module(source));
    for await (const group of groups) rows.push(...group);
    return rows;
  };
  const port = 'import { parentPort as port } from "node:worker_threads";';

  it("gives rows as they come", async () => {
    const source = `${port} port.postMessage({ rows: [{ a: 1n }] }); port.postMessage({ rows: [{ a: 2n }] }); port.postMessage({ done: true });`;
    expect(await read(source)).toEqual([{ a: 1n }, { a: 2n }]);
  });

  it.each([
    ["that never ends", "for (;;);", { milliseconds: 100 }, /takes longer than 0 s; it is probably damaged/],
    [
      "that fills its memory",
      "const all = []; for (let i = 0; ; i++) all.push({ i, text: 'x'.repeat(i % 100) });",
      { heapMegabytes: 16, milliseconds: 60_000 },
      /takes more memory than its size explains/,
    ],
    ["that goes away", "process.exit(0);", {}, /ended early/],
    ["that fails", "throw new Error('mine');", {}, /mine/],
  ])("%s ends in a sentence", async (_, source, bounds, message) => {
    const failed = read(source, { ...readingBounds, ...bounds });
    await expect(failed).rejects.toThrow(UserError);
    await expect(failed).rejects.toThrow(message);
  });
});
