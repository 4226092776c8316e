// Tokenised samples on disk. A cache file is believed only when every length in it adds up; otherwise it counts as
// absent and is made anew. All integers little-endian:
//
//   "lowrSAMP" | u32 version | u32 headerBytes | u32 samples | u32 tokens | header (JSON) | zeros to a multiple of 4
//   | u32 length of each sample | u32 line of each sample | i32 ids of all | u8 masks of all | u32 checksum
//
// Header: {"report", "unit"}. The checksum is FNV-1a over the 32-bit words of everything before it, tail bytes padded.

import { writeFileAtomic } from "../formats/atomic-file.ts";
import { openFile } from "../formats/disk.ts";
import { UserError } from "../util/errors.ts";
import type { Dataset, DatasetReport } from "./dataset-report.ts";
import type { Sample } from "./render.ts";
import type { RowId } from "./row.ts";

export const SAMPLE_CACHE_VERSION = 4;

const MAGIC = new TextEncoder().encode("lowrSAMP");
const FIXED_BYTES = 24;
const HEADER_CAP_BYTES = 2 ** 20;

/** Writes the file; what keeps it from being written (a full disk, a file in the way) comes back as a sentence. */
export async function writeSampleCache(path: string, dataset: Dataset): Promise<string | undefined> {
  try {
    await writeFileAtomic(path, encodeSamples(dataset));
    return undefined;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (error instanceof UserError) return error.message;
    if (code === undefined && !(error instanceof RangeError)) throw error;
    return `${path}: cannot be written (${code ?? (error as Error).message})`;
  }
}

/** The data set in a cache file, or undefined when there is no sound one. */
export async function readSampleCache(path: string, vocabSize: number): Promise<Dataset | undefined> {
  try {
    const source = await openFile(path);
    try {
      return decodeSamples(await source.read(0, source.size), vocabSize);
    } finally {
      await source.close();
    }
  } catch (error) {
    // A cache on a disk that cannot be read is no cache.
    if (error instanceof UserError || (error as NodeJS.ErrnoException).code !== undefined) return undefined;
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

export function encodeSamples({ samples, report }: Dataset): Uint8Array {
  const unit = samples[0]?.rowId.unit ?? "line";
  const header = new TextEncoder().encode(JSON.stringify({ report, unit }));
  const tokens = samples.reduce((sum, sample) => sum + sample.ids.length, 0);
  const at = layout(header.length, samples.length, tokens);
  const bytes = new Uint8Array(at.end);
  bytes.set(MAGIC);
  const view = new DataView(bytes.buffer);
  [SAMPLE_CACHE_VERSION, header.length, samples.length, tokens].forEach((value, i) => {
    view.setUint32(8 + 4 * i, value, true);
  });
  bytes.set(header, FIXED_BYTES);
  let token = 0;
  for (const [i, sample] of samples.entries()) {
    view.setUint32(at.lengths + 4 * i, sample.ids.length, true);
    view.setUint32(at.lines + 4 * i, sample.rowId.line, true);
    for (let j = 0; j < sample.ids.length; j++) view.setInt32(at.ids + 4 * (token + j), sample.ids[j]!, true);
    bytes.set(sample.targetMask, at.masks + token);
    token += sample.ids.length;
  }
  view.setUint32(at.checksum, checksum(view, at.checksum), true);
  return bytes;
}

export function decodeSamples(bytes: Uint8Array, vocabSize: number): Dataset | undefined {
  if (bytes.length < FIXED_BYTES || MAGIC.some((byte, i) => bytes[i] !== byte)) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [version, headerBytes, count, tokens] = [8, 12, 16, 20].map((offset) => view.getUint32(offset, true));
  if (version !== SAMPLE_CACHE_VERSION || headerBytes! > HEADER_CAP_BYTES) return undefined;
  const at = layout(headerBytes!, count!, tokens!);
  if (at.end !== bytes.length || view.getUint32(at.checksum, true) !== checksum(view, at.checksum)) {
    return undefined;
  }
  const header = readHeader(bytes.subarray(FIXED_BYTES, FIXED_BYTES + headerBytes!));
  if (header === undefined || header.report.samples !== count || header.report.tokens !== tokens)
    return undefined;

  const samples: Sample[] = [];
  let token = 0;
  for (let i = 0; i < count!; i++) {
    const length = view.getUint32(at.lengths + 4 * i, true);
    if (token + length > tokens!) return undefined;
    const ids = new Int32Array(length);
    for (let j = 0; j < length; j++) {
      const id = view.getInt32(at.ids + 4 * (token + j), true);
      if (id < 0 || id >= vocabSize) return undefined;
      ids[j] = id;
    }
    const targetMask = bytes.slice(at.masks + token, at.masks + token + length);
    const line = view.getUint32(at.lines + 4 * i, true);
    samples.push({ ids, targetMask, rowId: { file: header.report.file, line, unit: header.unit } });
    token += length;
  }
  return token === tokens ? { samples, report: header.report } : undefined;
}

/** Byte offsets of the parts; `end` may exceed 2^32, which no file of that header then matches. */
function layout(headerBytes: number, samples: number, tokens: number) {
  const lengths = Math.ceil((FIXED_BYTES + headerBytes) / 4) * 4;
  const lines = lengths + 4 * samples;
  const ids = lines + 4 * samples;
  const masks = ids + 4 * tokens;
  const checksumAt = Math.ceil((masks + tokens) / 4) * 4;
  return { lengths, lines, ids, masks, checksum: checksumAt, end: checksumAt + 4 };
}

function checksum(view: DataView, end: number): number {
  let sum = 0x811c9dc5;
  for (let offset = 0; offset < end; offset += 4) {
    sum = Math.imul(sum ^ view.getUint32(offset, true), 0x01000193);
  }
  return sum >>> 0;
}

function readHeader(bytes: Uint8Array): { report: DatasetReport; unit: RowId["unit"] } | undefined {
  try {
    const header = JSON.parse(new TextDecoder().decode(bytes)) as { report?: DatasetReport; unit?: unknown };
    const { report, unit } = header;
    if (typeof report !== "object" || report === null || typeof report.file !== "string") return undefined;
    return unit === "line" || unit === "row" ? { report, unit } : undefined;
  } catch {
    return undefined;
  }
}
