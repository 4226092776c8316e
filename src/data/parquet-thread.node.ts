// Reads a Parquet file in a thread of its own, which its owner ends when it takes too long (read-parquet.node.ts): the
// library's loops trust the file. Sends the rows of one row group after the other. Not here: what becomes of a value
// (parquet-values.ts) or of the rows (parse-rows.ts).

import { parentPort, workerData } from "node:worker_threads";
import {
  type AsyncBuffer,
  type Compressors,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
} from "hyparquet";
import { checkPages } from "./parquet-pages.ts";
import { parquetReading, parquetValue, takeDecimals } from "./parquet-values.ts";

/** What the thread is given. */
export interface ParquetJob {
  readonly bytes: Uint8Array;
}

/** What it sends: rows, and at the end one word of how it went. */
export type ParquetMessage =
  | { readonly rows: readonly unknown[] }
  | { readonly done: true }
  | { readonly problem: string };

async function read({ bytes }: ParquetJob, send: (message: ParquetMessage) => void): Promise<void> {
  const file: AsyncBuffer = {
    byteLength: bytes.byteLength,
    slice: (start, end) => bytes.slice(start, end).buffer as ArrayBuffer,
  };
  try {
    const metadata = await parquetMetadataAsync(file);
    checkPages(metadata, bytes);
    const compressors = await compressorsFor(metadata);
    const scales = takeDecimals(metadata);
    const schema = parquetSchema(metadata);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const range = { rowStart, rowEnd };
      const objects = await parquetReadObjects({ file, metadata, compressors, ...range, ...parquetReading });
      send({ rows: objects.map((object) => parquetValue(object, schema, scales)) });
      rowStart = rowEnd;
    }
    send({ done: true });
  } catch (error) {
    send({ problem: (error as Error).message });
  }
}

/** The rarer ones are WebAssembly, which reserves gigabytes of addresses: loaded when they are needed. */
async function compressorsFor(metadata: FileMetaData): Promise<Compressors | undefined> {
  const codecs = metadata.row_groups.flatMap(({ columns }) => columns.map((each) => each.meta_data?.codec));
  if (codecs.every((codec) => codec === "SNAPPY" || codec === "UNCOMPRESSED")) return undefined;
  const { compressors } = await import("hyparquet-compressors").catch((error: Error) => {
    throw new Error(`it cannot be unpacked here (${error.message}); write the rows as .jsonl`);
  });
  return compressors;
}

const port = parentPort;
if (port) await read(workerData as ParquetJob, (message) => port.postMessage(message));
