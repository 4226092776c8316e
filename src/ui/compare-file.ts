// A comparison as the page shows it, from its compare.json: the table that compare.md has, and the numbers of its plots.
// Who writes it: compare/report.ts.

import { lstat } from "node:fs/promises";
import { join } from "node:path";
import type { Comparison } from "../compare/compare.ts";
import { edgeNote, errorsText, keepText, tableOf } from "../compare/report.ts";
import { RequestError } from "../serve/request-error.ts";
import type { CompareSummary, CompareView } from "./api.ts";
import { folderOf, ROOT_ID } from "./run-places.ts";
import { numberIn, numbersIn, objectIn, readJsonObject, textIn } from "./run-record-file.ts";

/** Its rows have every step's loss. */
const capBytes = 64 * 2 ** 20;
const mostRows = 500;
const mostPoints = 2000;

/** The comparisons below a folder. */
export class CompareFiles {
  /** By id, with what the file was then. */
  private readonly known = new Map<string, { readonly stamp: string; readonly summary: CompareSummary }>();

  constructor(private readonly root: string) {}

  /** Undefined where it cannot be read. */
  async summaryOf(id: string): Promise<CompareSummary | undefined> {
    const path = await this.fileOf(id).catch(() => undefined);
    const info = path === undefined ? undefined : await lstat(path).catch(() => undefined);
    if (path === undefined || !info?.isFile()) return undefined;
    const stamp = `${info.ino}-${info.size}-${info.mtimeMs}`;
    const known = this.known.get(id);
    if (known?.stamp === stamp) return known.summary;
    const read = await readJsonObject(path, capBytes);
    if (!read) return undefined;
    const summary = summaryIn(id, read.value, info.mtimeMs);
    this.known.set(id, { stamp, summary });
    return summary;
  }

  /** RequestError (404) where there is none. */
  async view(id: string, runIds: ReadonlySet<string>): Promise<CompareView> {
    const read = await readJsonObject(await this.fileOf(id), capBytes);
    if (!read)
      throw new RequestError(`there is no comparison "${id.slice(0, 100)}" here`, null, 404, "not_found");
    const { value, changedMs } = read;
    const rows = (Array.isArray(value.rows) ? value.rows : []).slice(0, mostRows).map(rowIn);
    return {
      summary: summaryIn(id, value, changedMs),
      ...tableIn(value),
      quality: textIn(value.quality) ?? "",
      rows: rows.map(({ folder, ...row }) => {
        const run = runOf(id, folder, runIds);
        return { ...row, ...(run !== undefined && { run }) };
      }),
    };
  }

  private async fileOf(id: string): Promise<string> {
    return join(await folderOf(this.root, id), "compare.json");
  }
}

function summaryIn(id: string, value: Readonly<Record<string, unknown>>, changedMs: number): CompareSummary {
  return {
    id,
    status: textIn(value.status) ?? "unknown",
    model: textIn(value.model) ?? "",
    data: textIn(value.data) ?? "",
    rows: Array.isArray(value.rows) ? value.rows.length : 0,
    changedMs: Math.round(changedMs),
  };
}

/** The table as the command prints it; of a file that is not as it was written, none. */
function tableIn(value: Readonly<Record<string, unknown>>): Pick<CompareView, "heading" | "cells" | "notes"> {
  try {
    const comparison = value as unknown as Comparison;
    const { heading, cells } = tableOf(comparison);
    const notes = [
      errorsText(comparison),
      ...(comparison.rows.some(({ atEdge }) => atEdge) ? [edgeNote] : []),
      ...(comparison.keep ? [keepText(comparison.keep)] : []),
    ];
    return { heading: heading.map(String), cells: cells.map((row) => row.map(String)), notes };
  } catch {
    return { heading: [], cells: [], notes: ["compare.json is not as `lowrank compare` writes it"] };
  }
}

function rowIn(given: unknown) {
  const row = objectIn(given) ?? {};
  const tried = (Array.isArray(row.tried) ? row.tried : []).slice(0, mostRows).flatMap((each) => {
    const learningRate = numberIn(objectIn(each)?.learningRate);
    const validationLoss = numberIn(objectIn(each)?.validationLoss) ?? null;
    return learningRate === undefined ? [] : [{ learningRate, validationLoss }];
  });
  return {
    name: textIn(row.name) ?? "",
    method: textIn(row.method) ?? "",
    rank: numberIn(row.rank) ?? 0,
    learningRate: numberIn(row.learningRate),
    trainableParameters: numberIn(row.trainableParameters) ?? 0,
    peakBytes: numberIn(row.peakBytes),
    tokensPerSecond: numberIn(row.tokensPerSecond),
    seconds: numberIn(row.seconds),
    scores: numbersIn(row.scores) ?? {},
    standardErrors: numbersIn(row.standardErrors) ?? {},
    intervals: intervalsIn(row.intervals),
    tried,
    course: courseIn(row.course),
    folder: textIn(row.folder),
  };
}

function intervalsIn(given: unknown): Record<string, { low: number; high: number }> {
  const entries = Object.entries(objectIn(given) ?? {}).slice(0, 64);
  return Object.fromEntries(
    entries.flatMap(([name, value]) => {
      const [low, high] = [numberIn(objectIn(value)?.low), numberIn(objectIn(value)?.high)];
      return low === undefined || high === undefined ? [] : [[name, { low, high }]];
    }),
  );
}

/** Evenly thinned to what a plot can show, the last point included. */
function courseIn(given: unknown): [number, number][] {
  const course = (Array.isArray(given) ? given : []).flatMap((point): [number, number][] => {
    const [step, loss] = Array.isArray(point) ? point.map(numberIn) : [];
    return step === undefined || loss === undefined ? [] : [[step, loss]];
  });
  const stride = Math.max(1, Math.ceil(course.length / mostPoints));
  return course.filter((_, i) => i % stride === 0 || i === course.length - 1);
}

/** Its folder is named from where the command ran; what lies below the comparison's own folder is known by its end. */
function runOf(id: string, folder: string | undefined, runIds: ReadonlySet<string>): string | undefined {
  const last = folder?.split(/[\\/]/).at(-1);
  if (last === undefined) return undefined;
  const below = id === ROOT_ID ? "" : `${id}/`;
  return [`${below}runs/${last}`, `${below}${last}`].find((run) => runIds.has(run));
}
