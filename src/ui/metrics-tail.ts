// metrics.jsonl as it grows: each byte is read once, whole lines become rows of columns. A resumed run takes back what
// came after its checkpoint and writes on from there, which shows in the bytes before the place read so far; the file is
// then read anew, and what is no longer true is told. The file may be anyone's: lines, rows and bytes are capped.

import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { MetricColumns } from "./metric-columns.ts";

/** Bytes taken at a time, between which others get their turn. */
const pieceBytes = 1 << 20;
/** A line has some 300 bytes; one of grpo with many rewards, a few thousand. */
const mostLineBytes = 64 * 1024;
/** Lines of each kind that are kept: 20 columns of them are 80 MB. */
const mostRows = 500_000;
/** Of a longer file, the rest is not looked at. */
const mostBytes = 2 ** 30;
/** Bytes before the place read so far that must be what they were. */
const markBytes = 256;

export interface MetricRows {
  readonly train: MetricColumns;
  readonly eval: MetricColumns;
  readonly forget: MetricColumns;
  /** Steps of evaluations marked as the best so far. */
  readonly best: number[];
  badLines: number;
}

/** What a look at the file found beyond the last one. */
export interface MetricNews {
  /** Rows of each kind that were there before; what follows is new. */
  readonly known: { readonly train: number; readonly eval: number; readonly forget: number };
  /** The step after which nothing told before is true any more; absent where all of it is. */
  readonly rewoundTo?: number;
}

const kinds = ["train", "eval", "forget"] as const;

export class MetricsTail {
  rows = emptyRows();
  private offset = 0;
  /** The bytes before the offset. */
  private mark: Buffer = Buffer.alloc(0);
  /** In the middle of a line that is too long. */
  private skipping = false;

  constructor(private readonly path: string) {}

  get sizeBytes(): number {
    return kinds.reduce((sum, kind) => sum + this.rows[kind].sizeBytes, 0);
  }

  /** Reads what is new; undefined when nothing is. A file that is not there has no rows. */
  async read(): Promise<MetricNews | undefined> {
    const file = await openPlain(this.path);
    try {
      const size = file === undefined ? 0 : Math.min(mostBytes, (await file.stat()).size);
      if (size < this.offset || !(await this.isAsRead(file))) return await this.readAnew(file, size);
      if (!file || size === this.offset) return undefined;
      const known = lengthsOf(this.rows);
      await this.readOn(file, size);
      const now = lengthsOf(this.rows);
      return kinds.some((kind) => now[kind] > known[kind]) ? { known } : undefined;
    } finally {
      await file?.close();
    }
  }

  private async isAsRead(file: FileHandle | undefined): Promise<boolean> {
    if (this.mark.length === 0) return true;
    if (!file) return false;
    const bytes = Buffer.alloc(this.mark.length);
    const { bytesRead } = await file.read(bytes, 0, bytes.length, this.offset - bytes.length);
    return bytesRead === bytes.length && bytes.equals(this.mark);
  }

  private async readAnew(file: FileHandle | undefined, size: number): Promise<MetricNews> {
    const before = this.rows;
    this.rows = emptyRows();
    this.offset = 0;
    this.skipping = false;
    this.mark = Buffer.alloc(0);
    if (file) await this.readOn(file, size);
    const known = { train: 0, eval: 0, forget: 0 };
    // What only one of the two has begins after this step.
    let rewoundTo = Number.POSITIVE_INFINITY;
    for (const kind of kinds) {
      const [old, now] = [before[kind], this.rows[kind]];
      const same = old.sameRows(now);
      if (same < old.length) rewoundTo = Math.min(rewoundTo, old.stepAt(same) - 1);
    }
    for (const kind of kinds) {
      const now = this.rows[kind];
      let row = before[kind].sameRows(now);
      while (row > 0 && now.stepAt(row - 1) > rewoundTo) row--;
      known[kind] = row;
    }
    return { known, ...(rewoundTo < Number.POSITIVE_INFINITY && { rewoundTo: Math.max(0, rewoundTo) }) };
  }

  /** Reads whole lines up to `size`. */
  private async readOn(file: FileHandle, size: number): Promise<void> {
    let held: Buffer = Buffer.alloc(0);
    for (let at = this.offset; at < size; ) {
      const piece = Buffer.allocUnsafe(Math.min(pieceBytes, size - at));
      const { bytesRead } = await file.read(piece, 0, piece.length, at);
      if (bytesRead === 0) break;
      at += bytesRead;
      const bytes =
        held.length > 0 ? Buffer.concat([held, piece.subarray(0, bytesRead)]) : piece.subarray(0, bytesRead);
      let start = 0;
      for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, start)) {
        if (this.skipping) this.rows.badLines++;
        else this.take(bytes.toString("utf8", start, end));
        this.skipping = false;
        start = end + 1;
      }
      // Of a line beyond the cap only its end is waited for.
      if (bytes.length - start > mostLineBytes) this.skipping = true;
      if (this.skipping) start = bytes.length;
      if (start > 0) {
        this.offset = at - (bytes.length - start);
        this.mark = Buffer.from(bytes.subarray(Math.max(0, start - markBytes), start));
      }
      held = Buffer.from(bytes.subarray(start));
    }
  }

  private take(line: string): void {
    if (line.length > mostLineBytes) {
      this.rows.badLines++;
      return;
    }
    const value = parsed(line);
    const kind = kinds.find((one) => one === value?.type);
    const step = value?.step;
    const columns = kind && this.rows[kind];
    const follows = Number.isSafeInteger(step) && columns && (step as number) >= columns.lastStep();
    if (!value || !follows || columns.length >= mostRows) {
      if (line.trim() !== "") this.rows.badLines++;
      return;
    }
    columns.add(step as number, value);
    if (kind === "eval" && value.best === true && this.rows.best.length < mostRows)
      this.rows.best.push(step as number);
  }
}

function emptyRows(): MetricRows {
  return {
    train: new MetricColumns(),
    eval: new MetricColumns(),
    forget: new MetricColumns(),
    best: [],
    badLines: 0,
  };
}

function lengthsOf(rows: MetricRows): { train: number; eval: number; forget: number } {
  return { train: rows.train.length, eval: rows.eval.length, forget: rows.forget.length };
}

function parsed(line: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** Undefined where there is no plain file: a link may lead anywhere, and a pipe never ends. */
export async function openPlain(path: string): Promise<FileHandle | undefined> {
  const { O_RDONLY, O_NOFOLLOW = 0, O_NONBLOCK = 0 } = constants;
  const file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch(() => undefined);
  if (!file) return undefined;
  if ((await file.stat()).isFile()) return file;
  await file.close();
  return undefined;
}
