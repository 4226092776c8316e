// The rows of a Parquet file, a row group at a time, from a thread that is ended when it takes far too long or too much
// memory: a damaged file must end in a sentence. The thread is parquet-thread.node.ts; what the rows mean, parse-rows.ts.

import { Worker } from "node:worker_threads";
import { UserError } from "../util/errors.ts";
import { threadFlags } from "../util/thread-flags.node.ts";
import type { ParquetJob, ParquetMessage } from "./parquet-thread.node.ts";

/** What reading may take. */
export interface ReadingBounds {
  /** Of the thread's own work; a waiting thread spends nothing. */
  readonly milliseconds: number;
  readonly millisecondsPerMegabyte: number;
  readonly heapMegabytes: number;
}

/** Some ten times what sound files take. */
export const readingBounds: ReadingBounds = {
  milliseconds: 5000,
  millisecondsPerMegabyte: 1000,
  heapMegabytes: 4096,
};

const WATCH_MS = 50;

/** The built file also where this one runs from source, by a loader that threads do not have. */
const thread = new URL(
  import.meta.url.endsWith(".ts") ? "../../dist/data/parquet-thread.node.js" : "./parquet-thread.node.js",
  import.meta.url,
);

/** UserError, beginning with `name`, where the file cannot be read. */
export async function* readParquetGroups(
  bytes: Uint8Array,
  name: string,
  bounds = readingBounds,
  module = thread,
): AsyncGenerator<readonly unknown[]> {
  const job: ParquetJob = { bytes };
  const worker = new Worker(module, {
    ...threadFlags(),
    workerData: job,
    resourceLimits: { maxOldGenerationSizeMb: bounds.heapMegabytes },
  });
  const limitMs = bounds.milliseconds + (bounds.millisecondsPerMegabyte * bytes.byteLength) / 2 ** 20;
  const messages: ParquetMessage[] = [];
  let wake = () => {};
  const tell = (message: ParquetMessage) => {
    messages.push(message);
    wake();
  };
  worker.on("message", tell);
  worker.on("error", (error) => tell({ problem: whyItFailed(error) }));
  worker.on("exit", () => tell({ problem: "the reader ended early" }));
  const watch = setInterval(() => {
    if (worker.performance.eventLoopUtilization().active <= limitMs) return;
    tell({ problem: `reading it takes longer than ${Math.round(limitMs / 1000)} s; it is probably damaged` });
  }, WATCH_MS);
  try {
    for (;;) {
      const message = messages.shift();
      if (message === undefined) await new Promise<void>((resolve) => (wake = resolve));
      else if ("rows" in message) yield message.rows;
      else if ("done" in message) return;
      else throw new UserError(`${name}: not a Parquet file that can be read: ${message.problem}`);
    }
  } finally {
    clearInterval(watch);
    await worker.terminate();
  }
}

function whyItFailed(error: unknown): string {
  return (error as NodeJS.ErrnoException).code === "ERR_WORKER_OUT_OF_MEMORY"
    ? "reading it takes more memory than its size explains; it is probably damaged"
    : (error as Error).message;
}
