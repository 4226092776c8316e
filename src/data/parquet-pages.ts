// Looks at the pages of a Parquet file before any is decoded: a reader believes what their headers claim, and claims of
// a damaged file (two thousand million values, a page beyond its column) make it compute or allocate without end. Pure.
// Not here: the reading (parquet-thread.node.ts).
//
//   column chunk:  [header][dictionary page]  [header][data page]  [header][data page] ...
//                  sizes and counts of values stand in the headers

import type { ColumnMetaData, FileMetaData } from "hyparquet";
import { parquetHeader } from "hyparquet/src/column.js";

/** What a file may claim. */
export interface ParquetBounds {
  readonly rows: number;
  /** Values of one column in one row group: lists have many in a row. */
  readonly values: number;
  readonly pageBytes: number;
}

export const parquetBounds: ParquetBounds = { rows: 20_000_000, values: 2 ** 27, pageBytes: 2 ** 30 };

/** Throws an Error that says what is impossible. `bytes` is the whole file. */
export function checkPages(metadata: FileMetaData, bytes: Uint8Array, bounds = parquetBounds): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let rows = 0;
  for (const group of metadata.row_groups) {
    const groupRows = Number(group.num_rows);
    if (groupRows < 0) throw new Error(`a row group of ${groupRows} rows`);
    rows += groupRows;
    for (const { meta_data: column } of group.columns) if (column) checkColumn(column, view, bounds);
  }
  if (rows > bounds.rows) throw new Error(`${rows} rows in its row groups; at most ${bounds.rows} are read`);
  if (rows !== Number(metadata.num_rows))
    throw new Error(`${metadata.num_rows} rows by its footer and ${rows} by its row groups`);
}

function checkColumn(column: ColumnMetaData, view: DataView, bounds: ParquetBounds): void {
  const name = column.path_in_schema.join(".");
  const values = Number(column.num_values);
  if (values < 0 || values > bounds.values)
    throw new Error(`column ${name} claims ${values} values; at most ${bounds.values} are read`);
  const dictionary = Number(column.dictionary_page_offset ?? 0n);
  const start = dictionary > 0 ? dictionary : Number(column.data_page_offset);
  const end = start + Number(column.total_compressed_size);
  if (!(start >= 0 && end >= start && end <= view.byteLength))
    throw new Error(`column ${name} lies from byte ${start} to ${end} of ${view.byteLength}`);
  const reader = { view: new DataView(view.buffer, view.byteOffset + start, end - start), offset: 0 };
  let seen = 0;
  // The reader of pages takes a last byte for padding.
  while (reader.offset < reader.view.byteLength - 1 && seen < values) {
    const header = parquetHeader(reader);
    const compressed = header.compressed_page_size;
    const uncompressed = header.uncompressed_page_size;
    if (!(compressed >= 0 && reader.offset + compressed <= reader.view.byteLength))
      throw new Error(`a page of column ${name} claims ${compressed} bytes, more than its column has`);
    if (!(uncompressed >= 0 && uncompressed <= bounds.pageBytes))
      throw new Error(`a page of column ${name} claims ${uncompressed} bytes unpacked`);
    reader.offset += compressed;
    const entries = header.dictionary_page_header?.num_values;
    // An entry takes at least a bit.
    if (entries !== undefined && !(entries >= 0 && entries <= 8 * uncompressed))
      throw new Error(`the dictionary of column ${name} claims ${entries} entries in ${uncompressed} bytes`);
    const count = (header.data_page_header ?? header.data_page_header_v2)?.num_values ?? 0;
    seen += count;
    if (!(count >= 0 && seen <= values))
      throw new Error(`a page of column ${name} claims ${count} values, more than its column has`);
  }
}
