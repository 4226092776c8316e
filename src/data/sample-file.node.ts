// Tokenised samples in a file: written while they are made, and read back either into memory, where they are few, or one by
// one for as long as the run lasts. A file is believed only when every length and its checksum add up; otherwise it counts as
// absent. The bytes: sample-record.ts.

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { writeAtomically } from "../formats/atomic-file.ts";
import { UserError } from "../util/errors.ts";
import type { Dataset } from "./dataset-report.ts";
import type { Sample } from "./render.ts";
import {
  CHECKSUM_START,
  checksumOf,
  decodeFooter,
  decodeHeader,
  encodeFooter,
  encodeHeader,
  FOOTER_BYTES,
  HEAD_WORDS,
  headWords,
  putRecord,
  RECORD_HEAD_WORDS,
  type RowFile,
  recordWords,
  type SampleFooter,
  type SampleHeader,
  takeRecord,
} from "./sample-record.ts";
import type { Samples } from "./samples.ts";

/** Files up to this are read into memory. */
export const MEMORY_BYTES = 32 * 2 ** 20;
const PIECE_WORDS = 2 ** 20;
/** The place of every so manyth sample is kept; the others are counted from there. */
const STRIDE = 64;

/** Writes a file; what keeps it from being written (a full disk, a file in the way) comes back as a sentence. */
export async function writeSampleFile(
  path: string,
  produce: (writer: SampleWriter) => Promise<SampleHeader["report"]>,
): Promise<{ readonly problem?: string }> {
  let producing: { readonly error: unknown } | undefined;
  let refused = false;
  try {
    await writeAtomically(path, async (append) => {
      const writer = new SampleWriter(async (bytes) => {
        try {
          await append(bytes);
        } catch (error) {
          refused = true;
          throw error;
        }
      });
      try {
        const report = await produce(writer);
        await writer.end(report);
      } catch (error) {
        if (!refused) producing = { error };
        throw error;
      }
    });
    return {};
  } catch (error) {
    if (producing) throw producing.error;
    const code = (error as NodeJS.ErrnoException).code;
    if (error instanceof UserError) return { problem: error.message };
    if (code === undefined && !(error instanceof RangeError)) throw error;
    return { problem: `${path}: cannot be written (${code ?? (error as Error).message})` };
  }
}

export class SampleWriter {
  private words = new Int32Array(PIECE_WORDS);
  private filled = 0;
  private written = 0;
  private checksum = CHECKSUM_START;
  private lengths = new Uint32Array(1024);
  private samples = 0;
  private tokens = 0;
  private readonly files: RowFile[] = [];

  constructor(private readonly append: (bytes: Uint8Array) => Promise<void>) {
    this.put(headWords());
  }

  add(sample: Sample): void {
    const size = recordWords(sample.ids.length);
    this.makeRoom(size);
    putRecord(this.words, this.filled, sample, this.fileOf(sample));
    this.filled += size;
    if (this.samples === this.lengths.length) {
      const longer = new Uint32Array(2 * this.samples);
      longer.set(this.lengths);
      this.lengths = longer;
    }
    this.lengths[this.samples++] = sample.ids.length;
    this.tokens += sample.ids.length;
  }

  /** Writes what has come together, where it is enough to be worth it. */
  async flush(enough = PIECE_WORDS / 2): Promise<void> {
    if (this.filled < enough) return;
    const piece = this.words.subarray(0, this.filled);
    this.checksum = checksumOf(piece, this.checksum);
    await this.append(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength));
    this.written += piece.byteLength;
    this.filled = 0;
  }

  async end(report: SampleHeader["report"]): Promise<void> {
    await this.flush(0);
    const lengthsAt = this.written;
    const { samples, tokens } = this;
    const lengths = this.lengths.subarray(0, samples);
    this.put(new Int32Array(lengths.buffer, 0, samples));
    const header = encodeHeader({ report, files: this.files });
    this.put(header.words);
    await this.flush(0);
    const footer = { samples, tokens, lengthsAt, headerBytes: header.bytes, checksum: this.checksum };
    await this.append(encodeFooter(footer));
  }

  private put(words: Int32Array): void {
    this.makeRoom(words.length);
    this.words.set(words, this.filled);
    this.filled += words.length;
  }

  private makeRoom(size: number): void {
    if (this.filled + size <= this.words.length) return;
    const longer = new Int32Array(2 * (this.filled + size));
    longer.set(this.words.subarray(0, this.filled));
    this.words = longer;
  }

  private fileOf({ rowId }: Sample): number {
    // Rows come file by file.
    const last = this.files.length - 1;
    if (this.files[last]?.file === rowId.file) return last;
    return this.files.push({ file: rowId.file, unit: rowId.unit }) - 1;
  }
}

/** The data set in a file, or undefined when there is no sound one. */
export function readSampleFile(
  path: string,
  vocabSize: number,
  memoryBytes = MEMORY_BYTES,
): Dataset | undefined {
  let descriptor: number;
  try {
    descriptor = openSync(path, "r");
  } catch {
    return undefined;
  }
  let kept = false;
  try {
    const size = fstatSync(descriptor).size;
    if (size < 4 * HEAD_WORDS + FOOTER_BYTES) return undefined;
    const footer = decodeFooter(bytesAt(descriptor, size - FOOTER_BYTES, FOOTER_BYTES), size);
    if (!footer) return undefined;
    const headerAt = footer.lengthsAt + 4 * footer.samples;
    const header = decodeHeader(bytesAt(descriptor, headerAt, footer.headerBytes));
    if (header?.report.samples !== footer.samples || header.report.tokens !== footer.tokens) return undefined;
    const inMemory: Sample[] | undefined = size <= memoryBytes ? [] : undefined;
    const lengths = soundLengths(descriptor, footer, header, vocabSize, size, inMemory);
    if (!lengths) return undefined;
    if (inMemory) return { samples: inMemory, report: header.report };
    kept = true;
    return { samples: new FileSamples(descriptor, path, lengths, header.files), report: header.report };
  } catch (error) {
    // A cache on a disk that cannot be read is no cache.
    if (error instanceof UserError || error instanceof RangeError) return undefined;
    if ((error as NodeJS.ErrnoException).code !== undefined) return undefined;
    throw error;
  } finally {
    if (!kept) closeSync(descriptor);
  }
}

/** Reads the whole file once: the lengths of its samples, where all is sound. */
function soundLengths(
  descriptor: number,
  footer: SampleFooter,
  { files }: SampleHeader,
  vocabSize: number,
  size: number,
  into: Sample[] | undefined,
): Uint32Array | undefined {
  const lengths = new Uint32Array(footer.samples);
  const listed = bytesAt(descriptor, footer.lengthsAt, 4 * footer.samples);
  new Uint8Array(lengths.buffer).set(listed);
  const walk = new RecordWalk(descriptor, 4 * HEAD_WORDS, footer.lengthsAt);
  let checksum = checksumOf(wordsOf(bytesAt(descriptor, 0, 4 * HEAD_WORDS)));
  if (wordsOf(bytesAt(descriptor, 0, 4 * HEAD_WORDS)).some((word, i) => word !== headWords()[i]))
    return undefined;
  for (const tokens of lengths) {
    const record = walk.next(tokens);
    if (!record || record[0] !== tokens) return undefined;
    checksum = checksumOf(record, checksum);
    if (into) {
      const sample = takeRecord(record, 0, files, vocabSize);
      if (!sample) return undefined;
      into.push(sample);
      continue;
    }
    if (files[record[2]!] === undefined) return undefined;
    for (let i = 0; i < tokens; i++) {
      const id = record[RECORD_HEAD_WORDS + i]!;
      if (id < 0 || id >= vocabSize) return undefined;
    }
  }
  if (!walk.atEnd) return undefined;
  const rest = wordsOf(bytesAt(descriptor, footer.lengthsAt, size - FOOTER_BYTES - footer.lengthsAt));
  return checksumOf(rest, checksum) === footer.checksum ? lengths : undefined;
}

/** Records one after the other, read in large pieces. */
class RecordWalk {
  private words = new Int32Array(0);
  private at = 0;

  constructor(
    private readonly descriptor: number,
    private place: number,
    private readonly end: number,
  ) {}

  get atEnd(): boolean {
    return this.place === this.end && this.at === this.words.length;
  }

  /** The words of a record, valid until the next call. */
  next(tokens: number): Int32Array | undefined {
    const size = recordWords(tokens);
    if (this.at + size > this.words.length) {
      const rest = this.words.subarray(this.at);
      const wanted = Math.min((this.end - this.place) / 4, Math.max(PIECE_WORDS, size) - rest.length);
      if (rest.length + wanted < size) return undefined;
      const words = new Int32Array(rest.length + wanted);
      words.set(rest);
      readInto(this.descriptor, this.place, new Uint8Array(words.buffer, 4 * rest.length));
      this.place += 4 * wanted;
      this.words = words;
      this.at = 0;
    }
    this.at += size;
    return this.words.subarray(this.at - size, this.at);
  }
}

const openFiles = new FinalizationRegistry<number>((descriptor) => closeSync(descriptor));

/** Samples of a sound file, which stays open; a sample is read when it is asked for. */
class FileSamples implements Samples {
  private readonly places: Float64Array;

  constructor(
    private readonly descriptor: number,
    private readonly path: string,
    readonly lengths: Uint32Array,
    private readonly files: readonly RowFile[],
  ) {
    openFiles.register(this, descriptor);
    this.places = new Float64Array(Math.ceil(lengths.length / STRIDE));
    let place = 4 * HEAD_WORDS;
    for (let i = 0; i < lengths.length; i++) {
      if (i % STRIDE === 0) this.places[i / STRIDE] = place;
      place += 4 * recordWords(lengths[i]!);
    }
  }

  get length(): number {
    return this.lengths.length;
  }

  at(index: number): Sample | undefined {
    const tokens = this.lengths[index];
    if (tokens === undefined) return undefined;
    let place = this.places[Math.floor(index / STRIDE)]!;
    for (let i = index - (index % STRIDE); i < index; i++) place += 4 * recordWords(this.lengths[i]!);
    return this.told(() =>
      takeRecord(wordsOf(bytesAt(this.descriptor, place, 4 * recordWords(tokens))), 0, this.files),
    );
  }

  *[Symbol.iterator](): Iterator<Sample> {
    const last = this.lengths.length - 1;
    const end = last < 0 ? 4 * HEAD_WORDS : this.placeAfter(last);
    const walk = new RecordWalk(this.descriptor, 4 * HEAD_WORDS, end);
    for (const tokens of this.lengths) {
      yield this.told(() => {
        const record = walk.next(tokens);
        return record && takeRecord(record, 0, this.files);
      });
    }
  }

  private placeAfter(index: number): number {
    let place = this.places[Math.floor(index / STRIDE)]!;
    for (let i = index - (index % STRIDE); i <= index; i++) place += 4 * recordWords(this.lengths[i]!);
    return place;
  }

  private told(read: () => Sample | undefined): Sample {
    let reason = "it was changed";
    try {
      const sample = read();
      if (sample) return sample;
    } catch (error) {
      reason = (error as Error).message;
    }
    throw new UserError(
      `${this.path}: tokenised data cannot be read any more (${reason}); --resume makes it anew and goes on.`,
    );
  }
}

function bytesAt(descriptor: number, place: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  readInto(descriptor, place, bytes);
  return bytes;
}

function readInto(descriptor: number, place: number, into: Uint8Array): void {
  for (let done = 0; done < into.length; ) {
    const read = readSync(descriptor, into, done, Math.min(2 ** 30, into.length - done), place + done);
    if (read === 0) throw new UserError("the file became shorter while it was read.");
    done += read;
  }
}

function wordsOf(bytes: Uint8Array): Int32Array {
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}
