// metrics.jsonl: one line an event, appended. Its length goes into checkpoints, so that a resumed run cuts off what
// an interrupted one wrote after its last checkpoint. The file is a record, not what training needs: where it was
// removed or damaged meanwhile, the run goes on with the lines that can be read, and says so.

import { type FileHandle, open, readFile, rename } from "node:fs/promises";
import { writeFileAtomic } from "../formats/atomic-file.ts";
import { syncFile } from "../formats/sync-file.ts";
import { UserError } from "../util/errors.ts";
import type { EvalEvent, ForgetEvent, StepEvent } from "./events.ts";

export interface KeptMetrics {
  /** Bytes of the file that belong to the run so far. */
  readonly bytes: number;
  /** The last step that they may speak of. */
  readonly step: number;
}

/** A longer record is taken as it is. */
const checkedCapBytes = 256 * 2 ** 20;

/** What is written to, or on a rank that writes nothing, not. */
export type Metrics = Pick<MetricsLog, "append" | "sync" | "close" | "sizeBytes">;

export const noLog: Metrics = {
  sizeBytes: 0,
  append: async () => {},
  sync: async () => {},
  close: async () => {},
};

export class MetricsLog {
  private constructor(
    private readonly file: FileHandle,
    private readonly timing: boolean,
    /** Length of the file. */
    public sizeBytes: number,
  ) {}

  /** Opens the log, keeping its beginning. `timing` false leaves wall-clock fields out. */
  static async open(
    path: string,
    kept: KeptMetrics,
    timing: boolean,
    warn: (message: string) => void = () => {},
  ): Promise<MetricsLog> {
    const keepBytes = kept.bytes > 0 ? await soundBytes(path, kept, warn) : 0;
    const file = await open(path, keepBytes > 0 ? "r+" : "w").catch((error: NodeJS.ErrnoException) => {
      throw new UserError(`${path}: cannot be written (${error.code})`);
    });
    await file.truncate(keepBytes);
    return new MetricsLog(file, timing, keepBytes);
  }

  async append(event: StepEvent | EvalEvent | ForgetEvent): Promise<void> {
    const { tokensPerSecond, elapsedMs, ...rest } = event as StepEvent;
    const line = this.timing ? event : rest;
    const bytes = new TextEncoder().encode(`${JSON.stringify(line)}\n`);
    // A nearly full disk takes a part of the line; the next call then says why.
    for (let done = 0; done < bytes.byteLength; ) {
      const length = bytes.byteLength - done;
      const write = this.file.write(bytes, done, length, this.sizeBytes + done);
      done += (await write.catch(refuseFullDisk)).bytesWritten;
    }
    this.sizeBytes += bytes.byteLength;
  }

  async sync(): Promise<void> {
    await syncFile(this.file).catch(refuseFullDisk);
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** How many bytes to keep: those of the run so far, after mending a file that no longer holds them whole. */
async function soundBytes(path: string, kept: KeptMetrics, warn: (message: string) => void): Promise<number> {
  if (kept.bytes > checkedCapBytes) return kept.bytes;
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new UserError(`${path}: cannot be read (${error.code})`);
  });
  if (bytes === undefined) {
    warn(
      `${path} is gone, and with it the lines up to step ${kept.step}; it starts again with the next step`,
    );
    return 0;
  }
  const head = bytes.subarray(0, kept.bytes);
  const lines = linesOf(head);
  const whole = head.length === kept.bytes && head.at(-1) === 0x0a;
  if (whole && lines.every((line) => stepOf(line) <= kept.step)) return kept.bytes;
  const sound = linesOf(bytes).filter((line) => stepOf(line) <= kept.step);
  const aside = `${path}.damaged`;
  await rename(path, aside);
  const text = sound.map((line) => `${line}\n`).join("");
  await writeFileAtomic(path, text);
  warn(
    `${path} is not as the run left it: the ${sound.length} lines up to step ${kept.step} that can be read are kept, and the file as it was is ${aside}`,
  );
  return Buffer.byteLength(text);
}

function linesOf(bytes: Uint8Array): string[] {
  const text = new TextDecoder().decode(bytes);
  return text.split("\n").filter((line, i, all) => !(line === "" && i === all.length - 1));
}

const lineTypes: ReadonlySet<unknown> = new Set(["train", "eval", "forget"]);

/** The step that a line speaks of; beyond every step when it is no line of ours. */
function stepOf(line: string): number {
  try {
    const value = JSON.parse(line) as { type?: unknown; step?: unknown } | null;
    const ours = lineTypes.has(value?.type) && Number.isSafeInteger(value?.step);
    return ours ? (value!.step as number) : Number.POSITIVE_INFINITY;
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}

function refuseFullDisk(error: NodeJS.ErrnoException): never {
  if (error.code !== "ENOSPC" && error.code !== "EDQUOT") throw error;
  throw new UserError(
    "metrics.jsonl cannot be written: the disk is full; earlier checkpoints are untouched. Free some space and continue with --resume",
  );
}
