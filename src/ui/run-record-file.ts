// run.json as the page needs it: whatever it holds, only values of the kinds that are expected come out, and none is long.
// Who writes it: train/run-record.ts.

import { isNestedBeyond, NESTING_CAP } from "../util/nesting.ts";
import type { DataSummary, MemoryByCategory } from "./api.ts";
import { openPlain } from "./metrics-tail.ts";

export interface ReadRecord {
  readonly status?: string;
  /** Of a run that failed. */
  readonly error?: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly lowrank?: string;
  readonly backend?: string;
  readonly device?: string;
  readonly precision?: string;
  readonly totalSteps?: number;
  readonly flopsPerToken?: number;
  readonly trainableParameters?: number;
  readonly totalParameters?: number;
  readonly stoppedEarly: boolean;
  readonly toldToEnd: boolean;
  readonly data?: DataSummary;
  readonly evalData?: DataSummary;
  readonly best?: { readonly metric: string; readonly step: number; readonly value: number };
  readonly peakBytes?: number;
  readonly peakRssBytes?: number;
  readonly deviceBytes?: number;
  readonly atPeak?: MemoryByCategory;
  readonly live?: MemoryByCategory;
  /** Epoch milliseconds. */
  readonly changedMs: number;
}

const capBytes = 2 ** 22;
const longestText = 1000;
const mostCategories = 64;

/** Undefined where there is none that can be read. */
export async function readJsonObject(
  path: string,
  mostBytes = capBytes,
): Promise<{ readonly value: Readonly<Record<string, unknown>>; readonly changedMs: number } | undefined> {
  const file = await openPlain(path);
  if (!file) return undefined;
  try {
    const { size, mtimeMs } = await file.stat();
    if (size > mostBytes) return undefined;
    const value: unknown = JSON.parse(await file.readFile("utf8"));
    const sound = typeof value === "object" && value !== null && !isNestedBeyond(value, NESTING_CAP);
    return sound ? { value: value as Record<string, unknown>, changedMs: mtimeMs } : undefined;
  } catch {
    return undefined;
  } finally {
    await file.close();
  }
}

export async function readRunRecord(path: string): Promise<ReadRecord | undefined> {
  const read = await readJsonObject(path);
  if (!read) return undefined;
  const { value } = read;
  const memory = objectIn(value.memory);
  return {
    status: textIn(value.status),
    error: typeof value.error === "string" ? value.error.slice(0, 2 * longestText) : undefined,
    options: objectIn(value.options) ?? {},
    lowrank: textIn(value.lowrank),
    backend: textIn(value.backend),
    device: textIn(value.device),
    precision: textIn(value.precision),
    totalSteps: stepsIn(value.totalSteps),
    flopsPerToken: numberIn(value.flopsPerToken),
    trainableParameters: numberIn(value.trainableParameters),
    totalParameters: numberIn(value.totalParameters),
    stoppedEarly: value.stoppedEarly === true,
    toldToEnd: value.toldToEnd === true,
    data: dataIn(value.data),
    evalData: dataIn(value.evalData),
    best: bestIn(value.best),
    peakBytes: numberIn(value.peakBytes),
    peakRssBytes: numberIn(value.peakRssBytes),
    deviceBytes: numberIn(value.deviceBytes),
    atPeak: numbersIn(memory?.atPeak),
    live: numbersIn(memory?.live),
    changedMs: read.changedMs,
  };
}

export function textIn(value: unknown): string | undefined {
  return typeof value === "string" ? value.slice(0, longestText) : undefined;
}

function stepsIn(value: unknown): number | undefined {
  return Number.isSafeInteger(value) && (value as number) > 0 ? (value as number) : undefined;
}

export function numberIn(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

export function objectIn(value: unknown): Readonly<Record<string, unknown>> | undefined {
  const plain = typeof value === "object" && value !== null && !Array.isArray(value);
  return plain ? (value as Record<string, unknown>) : undefined;
}

export function numbersIn(value: unknown): Readonly<Record<string, number>> | undefined {
  const object = objectIn(value);
  if (!object) return undefined;
  const entries = Object.entries(object).slice(0, mostCategories);
  return Object.fromEntries(
    entries.filter((entry): entry is [string, number] => numberIn(entry[1]) !== undefined),
  );
}

function dataIn(value: unknown): DataSummary | undefined {
  const data = objectIn(value);
  const file = textIn(data?.file);
  if (!data || file === undefined) return undefined;
  const count = (key: string) => numberIn(data[key]) ?? 0;
  return { file, rows: count("rows"), tokens: count("tokens"), targetTokens: count("targetTokens") };
}

function bestIn(value: unknown): ReadRecord["best"] {
  const best = objectIn(value);
  const [metric, step, found] = [textIn(best?.metric), numberIn(best?.step), numberIn(best?.value)];
  return metric === undefined || step === undefined || found === undefined
    ? undefined
    : { metric, step, value: found };
}
