// From a data file to training samples, with a report of everything that happened on the way: what was dropped, cut,
// or teaches nothing. Nothing is cut silently. Tokenising is slow, so samples are cached by the hash of the data, the
// tokenizer and the options. Rendering of one example: render.ts; order and batches: batches.ts.

import { createHash } from "node:crypto";
import { join } from "node:path";
import { UserError } from "../util/errors.ts";
import type { Dataset, DatasetReport, OverLength } from "./dataset-report.ts";
import { type ExampleRow, toExamples } from "./index.ts";
import { promptDiffers, roundTripStride } from "./prompt-round-trip.ts";
import { openDataFile } from "./read-rows.node.ts";
import { type RenderedExample, type Rendering, renderExample, type Sample } from "./render.ts";
import { cutFork, everyEnds, renderAlternatives } from "./render-forks.ts";
import { type Row, type RowId, type RowsWanted, rowLabel } from "./row.ts";
import { readSampleCache, SAMPLE_CACHE_VERSION, writeSampleCache } from "./sample-cache.ts";

export interface DatasetOptions extends Rendering {
  /** What rows must give; any targets when absent. */
  readonly rows?: RowsWanted | undefined;
  readonly sequenceLength: number;
  readonly overLength: OverLength;
  /** Folder for tokenised samples; absent: no cache. */
  readonly cacheFolder?: string;
  /** Told when samples cannot be kept there. */
  readonly onCacheProblem?: (message: string) => void;
  /** Called now and then while rows are tokenised. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Reads, renders and tokenises a data file, or loads what an earlier run made of the same bytes and options. */
export async function loadDataset(path: string, options: DatasetOptions): Promise<Dataset> {
  const file = await openDataFile(path);
  // The cache's format knows no forks.
  const kept = options.rows === undefined || options.rows === "targets";
  if (options.cacheFolder === undefined || !kept)
    return build(file.name, file.hash, await file.rows(), options);
  const cachePath = join(options.cacheFolder, `${cacheKey(file.name, file.hash, options)}.samples`);
  const cached = await readSampleCache(cachePath, options.tokenizer.vocabSize);
  if (cached !== undefined) return cached;
  const dataset = build(file.name, file.hash, await file.rows(), options);
  const problem = await writeSampleCache(cachePath, dataset);
  if (problem !== undefined) options.onCacheProblem?.(problem);
  return dataset;
}

function build(file: string, dataHash: string, rows: readonly Row[], options: DatasetOptions): Dataset {
  const { format, rows: examples, ignoredKeys: unread } = toExamples(rows, options.rows);
  const ignoredKeys = Object.fromEntries(
    Object.entries(unread).filter(([key]) => {
      const ofMessage = /\[\]\.(.*)$/s.exec(key)?.[1];
      return ofMessage === undefined || !options.template?.mentions(ofMessage);
    }),
  );
  return prepareSamples(examples, options, { file, dataHash, format: format.name, ignoredKeys });
}

export interface DatasetOrigin {
  readonly file: string;
  readonly dataHash: string;
  readonly format: string;
  readonly ignoredKeys: Readonly<Record<string, number>>;
}

const shownDrops = 5;

/** Examples as samples. UserError for rows over the sequence length under "error", naming the longest. */
export function prepareSamples(
  examples: readonly ExampleRow[],
  options: DatasetOptions,
  origin: DatasetOrigin,
): Dataset {
  const { sequenceLength, overLength } = options;
  if (!Number.isSafeInteger(sequenceLength) || sequenceLength < 2) {
    throw new UserError(`--sequence-length ${sequenceLength}: expected a whole number of at least 2.`);
  }
  const samples: Sample[] = [];
  const buckets = new Map<number, number>();
  const count = { over: 0, withoutTargets: 0, withoutEos: 0, promptDisagrees: 0, tokens: 0, targetTokens: 0 };
  const dropped = { samples: 0, shown: [] as string[] };
  const promptMismatches: RowId[] = [];
  const stride = roundTripStride(examples.length);
  let longest: { tokens: number; id: RowId } | undefined;
  for (const [done, { id, example }] of examples.entries()) {
    if (done % 256 === 0) options.onProgress?.(done, examples.length);
    const rendered = renderRow(example, id, options);
    const length = lengthOf(rendered);
    if (longest === undefined || length > longest.tokens) longest = { tokens: length, id };
    const bucket = 2 ** Math.ceil(Math.log2(Math.max(1, length)));
    buckets.set(bucket, (buckets.get(bucket) ?? 0) + 1);
    if (!rendered.promptAgrees) count.promptDisagrees++;
    if (length > sequenceLength) {
      count.over++;
      if (overLength !== "truncate") continue;
    }
    const sample = cut(rendered, id, sequenceLength);
    const targets = sample?.targetMask.reduce((sum, flag) => sum + flag, 0) ?? 0;
    if (!sample || targets === 0) {
      count.withoutTargets++;
      continue;
    }
    if (!ends(sample, options.tokenizer.eosIds)) count.withoutEos++;
    if (rendered.dropped !== undefined) {
      dropped.samples++;
      if (dropped.shown.length < shownDrops) dropped.shown.push(`${rowLabel(id)}, ${rendered.dropped}`);
    }
    count.tokens += sample.ids.length;
    count.targetTokens += targets;
    samples.push(sample);
    if (done % stride === 0 && promptDiffers(example, sample, options)) promptMismatches.push(id);
  }
  options.onProgress?.(examples.length, examples.length);
  if (overLength === "error" && count.over > 0) {
    throw new UserError(
      `${origin.file}: ${count.over} of ${examples.length} rows are longer than --sequence-length ${sequenceLength}; the longest is ${rowLabel(longest!.id)} with ${longest!.tokens} tokens. Raise --sequence-length, or pass --over-length drop or truncate.`,
    );
  }
  return {
    samples,
    report: {
      ...origin,
      trainOn: trainOnOf(examples, options),
      rendering: renderingOf(examples, options),
      rows: examples.length,
      samples: samples.length,
      dropped: overLength === "drop" ? count.over : 0,
      truncated: overLength === "truncate" ? count.over : 0,
      withoutTargets: count.withoutTargets,
      withoutEos: count.withoutEos,
      promptDisagrees: count.promptDisagrees,
      promptMismatches,
      droppedContent: dropped,
      tokens: count.tokens,
      targetTokens: count.targetTokens,
      longestRow: { tokens: longest?.tokens ?? 0, row: longest === undefined ? "" : rowLabel(longest.id) },
      lengths: [...buckets].sort(([a], [b]) => a - b).map(([upTo, n]) => ({ upTo, count: n })),
      sequenceLength,
    },
  };
}

/** UserError when there is nothing to learn, which would otherwise be a run with loss 0 or NaN. */
export function refuseWithoutTargets(report: DatasetReport): void {
  if (report.targetTokens > 0) return;
  const reasons = [
    report.dropped > 0
      ? `${report.dropped} rows were longer than --sequence-length ${report.sequenceLength}`
      : "",
    report.withoutTargets > 0
      ? `${report.withoutTargets} rows have no target token under --train-on ${report.trainOn}`
      : "",
  ].filter((reason) => reason !== "");
  throw new UserError(
    `${report.file}: nothing to train on: ${reasons.join(" and ") || "no rows"}. Each row needs a completion, an answer of the assistant or a text within the sequence length.`,
  );
}

/** UserError when the chat template leaves out a part of a conversation: it would be trained without it. */
export function refuseDroppedContent({ file, droppedContent }: DatasetReport): void {
  const { samples, shown } = droppedContent;
  if (samples === 0) return;
  throw new UserError(
    `${file}: the chat template leaves out a part of ${samples} conversations: ${shown.join("; ")}. Give a chat template that shows it, take it out of the rows, or allow "dropped-content".`,
  );
}

function renderRow(example: ExampleRow["example"], id: RowId, options: DatasetOptions) {
  try {
    return example.kind === "alternatives"
      ? renderAlternatives(example, options)
      : renderExample(example, options);
  } catch (error) {
    if (error instanceof UserError) throw new UserError(`${rowLabel(id)}: ${error.message}`);
    throw error;
  }
}

function lengthOf({ ids, fork }: RenderedExample): number {
  return fork ? fork.prompt + Math.max(...fork.completions) : ids.length;
}

/** The sample with no sequence longer than `most`; undefined where nothing of a completion is left. */
function cut(rendered: RenderedExample, rowId: RowId, most: number): Sample | undefined {
  const { ids, targetMask, fork, label } = rendered;
  if (fork) return cutFork({ ids, targetMask, rowId, fork, ...(label === undefined ? {} : { label }) }, most);
  return { ids: ids.slice(0, most), targetMask: targetMask.slice(0, most), rowId };
}

function ends(sample: Sample, eosIds: readonly number[]): boolean {
  if (sample.fork) return everyEnds(sample, eosIds);
  return sample.ids.some((token, i) => sample.targetMask[i] === 1 && eosIds.includes(token));
}

function trainOnOf(examples: readonly ExampleRow[], options: Rendering): DatasetReport["trainOn"] {
  const first = examples[0]?.example.kind;
  if (first === "alternatives") return "completions";
  if (first === "text") return "all";
  const wholeChats = examples.some(
    ({ example }) => example.kind === "chat" && example.completionFrom === undefined,
  );
  return options.trainOn ?? (wholeChats ? "assistant" : "completions");
}

function renderingOf(examples: readonly ExampleRow[], options: Rendering): string {
  const kinds = examples.map(({ example }) =>
    example.kind === "alternatives" ? example.each[0]!.kind : example.kind,
  );
  const kind = kinds.find((own) => own === "chat") ?? kinds[0];
  if (kind === "chat") return options.template?.name ?? "as written";
  if (kind === "instruction") return options.template?.name ?? "headings";
  return "as written";
}

/** Everything that samples depend on. The file's name is in it because rows carry it. */
function cacheKey(file: string, dataHash: string, options: DatasetOptions): string {
  const parts = [
    SAMPLE_CACHE_VERSION,
    file,
    dataHash,
    options.tokenizer.hash,
    options.template?.hash ?? "",
    options.trainOn ?? "",
    options.date?.toISOString() ?? "",
    options.sequenceLength,
    options.overLength,
  ];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
}
