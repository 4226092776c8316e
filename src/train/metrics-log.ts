// metrics.jsonl: one line an event, appended. Its length goes into checkpoints, so that a resumed run cuts off what
// an interrupted one wrote after its last checkpoint.

import { type FileHandle, open } from "node:fs/promises";
import { UserError } from "../util/errors.ts";
import type { EvalEvent, StepEvent } from "./events.ts";

export class MetricsLog {
  private constructor(
    private readonly file: FileHandle,
    private readonly timing: boolean,
    /** Length of the file. */
    public sizeBytes: number,
  ) {}

  /** Opens the log, keeping its first `keepBytes` bytes. `timing` false leaves wall-clock fields out. */
  static async open(path: string, keepBytes: number, timing: boolean): Promise<MetricsLog> {
    const file = await open(path, keepBytes > 0 ? "r+" : "w").catch((error: NodeJS.ErrnoException) => {
      throw new UserError(`${path}: cannot be written (${error.code})`);
    });
    const { size } = await file.stat();
    if (size < keepBytes) {
      await file.close();
      throw new UserError(
        `${path}: has ${size} bytes, but the checkpoint was saved when it had ${keepBytes}; the run folder was changed`,
      );
    }
    await file.truncate(keepBytes);
    return new MetricsLog(file, timing, keepBytes);
  }

  async append(event: StepEvent | EvalEvent): Promise<void> {
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
    await this.file.sync().catch(refuseFullDisk);
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

function refuseFullDisk(error: NodeJS.ErrnoException): never {
  if (error.code !== "ENOSPC" && error.code !== "EDQUOT") throw error;
  throw new UserError(
    "metrics.jsonl cannot be written: the disk is full; earlier checkpoints are untouched. Free some space and continue with --resume",
  );
}
