// What a list of runs shows of each: the first loss and the last numbers, from the two ends of metrics.jsonl, so that a
// thousand runs are listed without reading them. The whole file is metrics-tail.ts's.

import type { MetricColumns } from "./metric-columns.ts";
import { type MetricRows, openPlain } from "./metrics-tail.ts";
import { numberIn } from "./run-record-file.ts";

export interface EndsOfMetrics {
  readonly step: number;
  readonly firstLoss?: number;
  readonly loss?: number;
  readonly evalLoss?: number;
  readonly tokensPerSecond?: number;
  readonly elapsedMs?: number;
}

const headBytes = 8 * 1024;
const tailBytes = 64 * 1024;

/** Undefined where there is no such file. */
export async function readEnds(path: string): Promise<EndsOfMetrics | undefined> {
  const file = await openPlain(path);
  if (!file) return undefined;
  try {
    const { size } = await file.stat();
    const head = Buffer.alloc(Math.min(headBytes, size));
    const { bytesRead: headRead } = await file.read(head, 0, head.length, 0);
    const tail = Buffer.alloc(Math.min(tailBytes, size));
    const { bytesRead: tailRead } = await file.read(tail, 0, tail.length, size - tail.length);
    const first = linesOf(head.subarray(0, headRead), true).find(({ type }) => type === "train");
    const last = linesOf(tail.subarray(0, tailRead), size <= tail.length);
    const train = last.findLast(({ type }) => type === "train");
    const evaluation = last.findLast(({ type }) => type === "eval");
    return {
      step: numberIn(train?.step) ?? 0,
      firstLoss: numberIn(first?.loss),
      loss: numberIn(train?.loss),
      evalLoss: numberIn(evaluation?.loss),
      tokensPerSecond: numberIn(train?.tokensPerSecond),
      elapsedMs: numberIn(train?.elapsedMs),
    };
  } finally {
    await file.close();
  }
}

/** The same of metrics that are held already. */
export function endsOf({ train, eval: evaluations }: MetricRows): EndsOfMetrics {
  const last = (columns: MetricColumns, name: string) => numberIn(columns.valueAt(name, columns.length - 1));
  return {
    step: train.lastStep(),
    firstLoss: numberIn(train.valueAt("loss", 0)),
    loss: last(train, "loss"),
    evalLoss: last(evaluations, "loss"),
    tokensPerSecond: last(train, "tokensPerSecond"),
    elapsedMs: last(train, "elapsedMs"),
  };
}

/** Whole lines that are objects. */
function linesOf(bytes: Buffer, fromStart: boolean): Readonly<Record<string, unknown>>[] {
  const lines = bytes
    .toString("utf8")
    .split("\n")
    .slice(fromStart ? 0 : 1, -1);
  return lines.flatMap((line) => {
    try {
      const value: unknown = JSON.parse(line);
      return typeof value === "object" && value !== null ? [value as Record<string, unknown>] : [];
    } catch {
      return [];
    }
  });
}
