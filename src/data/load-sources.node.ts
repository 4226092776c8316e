// The data of a run from all its sources: each is rendered and tokenised by its own options, then all are one list of samples,
// source by source, with one report. Which of them an epoch has: mix.ts; what one source is: data-source.ts.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { ChatTemplate } from "../text/chat-template.ts";
import { type DataChoice, type DataSource, dataName, namedSources, sourcesOf } from "./data-source.ts";
import { type DatasetOptions, loadDataset, refuseWithoutTargets } from "./dataset.node.ts";
import type { DatasetReport, LengthBucket } from "./dataset-report.ts";
import { openDataFile } from "./read-rows.node.ts";
import { JoinedSamples, type Samples } from "./samples.ts";

export interface LoadedSource {
  readonly source: DataSource;
  readonly report: DatasetReport;
  /** Its samples are [first, first + count) of all. */
  readonly first: number;
  readonly count: number;
}

export interface LoadedData {
  readonly samples: Samples;
  readonly report: DatasetReport;
  readonly sources: readonly LoadedSource[];
}

/** UserError where one of the sources teaches nothing. `limit` holds for sources without one of their own. */
export async function loadSources(
  data: DataChoice,
  options: DatasetOptions,
  templateOf: (name: string) => Promise<ChatTemplate | undefined>,
): Promise<LoadedData> {
  const sources: LoadedSource[] = [];
  const lists: Samples[] = [];
  let first = 0;
  for (const { wholeName, ...source } of namedSources(data)) {
    const { path, limit, trainOn, chatTemplate, columns } = source;
    const own = {
      ...options,
      ...{ wholeName, limit: limit ?? options.limit, trainOn: trainOn ?? options.trainOn, columns },
      ...(chatTemplate !== undefined && { template: await templateOf(chatTemplate) }),
    };
    const { samples, report } = await loadDataset(path, own);
    refuseWithoutTargets(report);
    sources.push({ source, report, first, count: samples.length });
    lists.push(samples);
    first += samples.length;
  }
  if (typeof data === "string") return { samples: lists[0]!, report: sources[0]!.report, sources };
  const report = await joinedReport(
    data,
    sources.map((each) => each.report),
  );
  return { samples: lists.length === 1 ? lists[0]! : new JoinedSamples(lists), report, sources };
}

/** Of all sources; a path alone keeps its own. */
export async function joinedReport(
  data: DataChoice,
  reports: readonly DatasetReport[],
): Promise<DatasetReport> {
  if (typeof data === "string") return reports[0]!;
  const hashes = reports.map(({ dataHash }) => dataHash);
  return joined(reports, dataName(data), await combinedHash(data, hashes));
}

/** What the report of these data has for `dataHash`, without reading rows. */
export async function hashOfData(data: DataChoice): Promise<string> {
  const hashes: string[] = [];
  for (const { path } of sourcesOf(data)) hashes.push((await openDataFile(path)).hash);
  return typeof data === "string" ? hashes[0]! : combinedHash(data, hashes);
}

/** Of the bytes of all sources and of their options, but not of where they lie. */
async function combinedHash(sources: readonly DataSource[], hashes: readonly string[]): Promise<string> {
  const parts: unknown[] = [];
  for (const [i, { path: _, chatTemplate, columns, ...rest }] of sources.entries()) {
    const template =
      chatTemplate === undefined ? null : await readFile(chatTemplate, "utf8").catch(() => chatTemplate);
    const options = Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1));
    const renamed = Object.entries(columns ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
    parts.push([hashes[i], options, template, renamed]);
  }
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

const shownDrops = 5;

function joined(reports: readonly DatasetReport[], file: string, dataHash: string): DatasetReport {
  const first = reports[0]!;
  const sum = (of: (report: DatasetReport) => number) => reports.reduce((total, each) => total + of(each), 0);
  const all = (of: (report: DatasetReport) => string) => [...new Set(reports.map(of))].join(" + ");
  const trainOns = new Set(reports.map(({ trainOn }) => trainOn));
  const longest = reports.reduce((a, b) => (b.longestRow.tokens > a.longestRow.tokens ? b : a));
  const ignored: Record<string, number> = {};
  for (const { ignoredKeys } of reports)
    for (const [key, count] of Object.entries(ignoredKeys)) ignored[key] = (ignored[key] ?? 0) + count;
  return {
    file,
    dataHash,
    format: all(({ format }) => format),
    trainOn: trainOns.size === 1 ? first.trainOn : "assistant",
    rendering: all(({ rendering }) => rendering),
    rows: sum(({ rows }) => rows),
    samples: sum(({ samples }) => samples),
    dropped: sum(({ dropped }) => dropped),
    truncated: sum(({ truncated }) => truncated),
    withoutTargets: sum(({ withoutTargets }) => withoutTargets),
    withoutEos: sum(({ withoutEos }) => withoutEos),
    promptDisagrees: sum(({ promptDisagrees }) => promptDisagrees),
    promptMismatches: reports.flatMap(({ promptMismatches }) => promptMismatches),
    droppedContent: {
      samples: sum(({ droppedContent }) => droppedContent.samples),
      shown: reports.flatMap(({ droppedContent }) => droppedContent.shown).slice(0, shownDrops),
    },
    tokens: sum(({ tokens }) => tokens),
    targetTokens: sum(({ targetTokens }) => targetTokens),
    longestRow: longest.longestRow,
    lengths: joinedLengths(reports),
    sequenceLength: first.sequenceLength,
    ignoredKeys: ignored,
  };
}

function joinedLengths(reports: readonly DatasetReport[]): LengthBucket[] {
  const counts = new Map<number, number>();
  for (const { lengths } of reports)
    for (const { upTo, count } of lengths) counts.set(upTo, (counts.get(upTo) ?? 0) + count);
  return [...counts].sort(([a], [b]) => a - b).map(([upTo, count]) => ({ upTo, count }));
}
