// The bytes of tokenised samples, in 32-bit words. Pure; the files are sample-file.node.ts's. All integers little-endian, as
// on every machine that lowrank runs on:
//
//   file    = "lowrSAMP" | u32 version | u32 0 | records | u32 tokens of each sample | header (JSON), zeros to a word | footer
//   record  = u32 tokens | u32 line | u32 file | i32 ids | u8 masks, zeros to a word
//   footer  = u32 samples | u32 headerBytes | f64 tokens | f64 bytes before the lengths | u32 checksum | u32 version
//
// Header: {"report", "files": [{"file", "unit"}]}. The checksum is FNV-1a over all words before it.

import type { DatasetReport } from "./dataset-report.ts";
import type { Sample } from "./render.ts";
import type { RowId } from "./row.ts";

export const SAMPLE_CACHE_VERSION = 5;

export const HEAD_WORDS = 4;
export const RECORD_HEAD_WORDS = 3;
export const FOOTER_BYTES = 32;
export const HEADER_CAP_BYTES = 2 ** 24;
/** Of one sample; --sequence-length allows no more. */
export const TOKENS_CAP = 2 ** 24;

/** Where rows were read, once for all rows of a file. */
export type RowFile = Pick<RowId, "file" | "unit">;

export interface SampleHeader {
  readonly report: DatasetReport;
  readonly files: readonly RowFile[];
}

export function headWords(): Int32Array {
  const bytes = new Uint8Array(4 * HEAD_WORDS);
  bytes.set(new TextEncoder().encode("lowrSAMP"));
  const words = new Int32Array(bytes.buffer);
  words[2] = SAMPLE_CACHE_VERSION;
  return words;
}

export function recordWords(tokens: number): number {
  return RECORD_HEAD_WORDS + tokens + Math.ceil(tokens / 4);
}

/** Writes a sample's record at word `at`. */
export function putRecord(words: Int32Array, at: number, sample: Sample, file: number): void {
  const { ids, targetMask, rowId } = sample;
  words[at] = ids.length;
  words[at + 1] = rowId.line;
  words[at + 2] = file;
  words.set(ids, at + RECORD_HEAD_WORDS);
  const masks = at + RECORD_HEAD_WORDS + ids.length;
  words.fill(0, masks, at + recordWords(ids.length));
  new Uint8Array(words.buffer, words.byteOffset + 4 * masks, ids.length).set(targetMask);
}

/**
 * The sample whose record is at word `at`, on memory of its own; undefined where it cannot be one. `vocabSize` bounds the
 * ids of records that are not yet known to be sound.
 */
export function takeRecord(
  words: Int32Array,
  at: number,
  files: readonly RowFile[],
  vocabSize?: number,
): Sample | undefined {
  const tokens = words[at]!;
  const file = files[words[at + 2]!];
  if (!(tokens > 0 && tokens <= TOKENS_CAP) || file === undefined || at + recordWords(tokens) > words.length)
    return undefined;
  const ids = words.slice(at + RECORD_HEAD_WORDS, at + RECORD_HEAD_WORDS + tokens);
  if (vocabSize !== undefined) for (const id of ids) if (id < 0 || id >= vocabSize) return undefined;
  const masks = words.byteOffset + 4 * (at + RECORD_HEAD_WORDS + tokens);
  const targetMask = new Uint8Array(words.buffer, masks, tokens).slice();
  return { ids, targetMask, rowId: { ...file, line: words[at + 1]! >>> 0 } };
}

export const CHECKSUM_START = 0x811c9dc5;

/** FNV-1a over words, going on from `sum`. */
export function checksumOf(words: Int32Array, sum = CHECKSUM_START): number {
  let hash = sum;
  for (let i = 0; i < words.length; i++) hash = Math.imul(hash ^ words[i]!, 0x01000193);
  return hash;
}

/** Header as JSON, padded with zeros to whole words, and its length before that. */
export function encodeHeader(header: SampleHeader): { readonly words: Int32Array; readonly bytes: number } {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padded = new Uint8Array(4 * Math.ceil(text.length / 4));
  padded.set(text);
  return { words: new Int32Array(padded.buffer), bytes: text.length };
}

export function decodeHeader(bytes: Uint8Array): SampleHeader | undefined {
  try {
    const { report, files } = JSON.parse(new TextDecoder().decode(bytes)) as Partial<SampleHeader>;
    if (typeof report !== "object" || report === null || typeof report.file !== "string") return undefined;
    const sound = ({ file, unit }: RowFile) =>
      typeof file === "string" && (unit === "line" || unit === "row");
    return Array.isArray(files) && files.every(sound) ? { report, files } : undefined;
  } catch {
    return undefined;
  }
}

export interface SampleFooter {
  readonly samples: number;
  readonly headerBytes: number;
  readonly tokens: number;
  /** Where the lengths begin. */
  readonly lengthsAt: number;
  readonly checksum: number;
}

export function encodeFooter(footer: SampleFooter): Uint8Array {
  const bytes = new Uint8Array(FOOTER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, footer.samples, true);
  view.setUint32(4, footer.headerBytes, true);
  view.setFloat64(8, footer.tokens, true);
  view.setFloat64(16, footer.lengthsAt, true);
  view.setInt32(24, footer.checksum, true);
  view.setUint32(28, SAMPLE_CACHE_VERSION, true);
  return bytes;
}

/** Of a file of `size` bytes; undefined where its numbers do not add up to it. */
export function decodeFooter(bytes: Uint8Array, size: number): SampleFooter | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const samples = view.getUint32(0, true);
  const headerBytes = view.getUint32(4, true);
  const tokens = view.getFloat64(8, true);
  const lengthsAt = view.getFloat64(16, true);
  const end = lengthsAt + 4 * samples + 4 * Math.ceil(headerBytes / 4) + FOOTER_BYTES;
  const sound =
    view.getUint32(28, true) === SAMPLE_CACHE_VERSION &&
    headerBytes <= HEADER_CAP_BYTES &&
    Number.isSafeInteger(lengthsAt) &&
    lengthsAt >= 4 * HEAD_WORDS &&
    lengthsAt % 4 === 0 &&
    Number.isSafeInteger(tokens) &&
    4 * tokens <= lengthsAt &&
    end === size;
  return sound ? { samples, headerBytes, tokens, lengthsAt, checksum: view.getInt32(24, true) } : undefined;
}
