// From data files to training samples, row by row, so that neither rows nor samples need to fit in memory: samples go to a
// file of the cache while they are made, and are read from there. Tokenising is slow, so the file is kept by the hash of the
// data, the tokenizer and the options. What becomes of a row: sample-builder.ts; order and batches: batches.ts.

import { createHash } from "node:crypto";
import { join } from "node:path";
import { UserError } from "../util/errors.ts";
import { readRenamed } from "./data-source.ts";
import type { Dataset, DatasetReport } from "./dataset-report.ts";
import { ExampleReader, type ExampleRow, eachRated } from "./index.ts";
import { type DataFile, openDataFile } from "./read-rows.node.ts";
import type { Sample } from "./render.ts";
import { SampleBuilder, type SampleOptions } from "./sample-builder.ts";
import { MEMORY_BYTES, readSampleFile, writeSampleFile } from "./sample-file.node.ts";
import { SAMPLE_CACHE_VERSION } from "./sample-record.ts";

export interface DatasetOptions extends SampleOptions {
  /** Files are named by their whole path. */
  readonly wholeName?: boolean;
  /** Only so many rows, the first. */
  readonly limit?: number;
  /** Names of keys that stand for others, as they are in the rows. */
  readonly columns?: Readonly<Record<string, string>>;
  /** Folder for tokenised samples; absent: no cache, and all are kept in memory. */
  readonly cacheFolder?: string;
  /** Tokenised data up to this is kept in memory. */
  readonly memoryBytes?: number;
  /** Told when samples cannot be kept there. */
  readonly onCacheProblem?: (message: string) => void;
  /** Called now and then while rows are tokenised, with how many there have been. */
  readonly onProgress?: (rows: number) => void;
}

/** Reads, renders and tokenises data, or loads what an earlier run made of the same bytes and options. */
export async function loadDataset(path: string, options: DatasetOptions): Promise<Dataset> {
  const file = await openDataFile(path, options.wholeName);
  const { cacheFolder, memoryBytes = MEMORY_BYTES } = options;
  // The file's format knows no forks.
  const kept = options.rows === undefined || options.rows === "targets";
  if (cacheFolder === undefined || !kept) return inMemory(file, options);
  const place = join(cacheFolder, `${cacheKey(file, options)}.samples`);
  const cached = readSampleFile(place, options.tokenizer.vocabSize, memoryBytes);
  if (cached !== undefined) return cached;
  const { problem } = await writeSampleFile(place, (writer) =>
    build(file, options, async (samples) => {
      for (const sample of samples) writer.add(sample);
      await writer.flush();
    }),
  );
  if (problem !== undefined) {
    options.onCacheProblem?.(problem);
    return inMemory(file, options);
  }
  const written = readSampleFile(place, options.tokenizer.vocabSize, memoryBytes);
  if (written) return written;
  throw new UserError(`${place}: what was written there cannot be read back; the disk may be damaged.`);
}

async function inMemory(file: DataFile, options: DatasetOptions): Promise<Dataset> {
  const samples: Sample[] = [];
  const report = await build(file, options, async (more) => {
    for (const sample of more) samples.push(sample);
  });
  return { samples, report };
}

/** Hands over the samples of a few rows at a time. */
async function build(
  { name, hash, rows }: DataFile,
  options: DatasetOptions,
  take: (samples: readonly Sample[]) => Promise<void>,
): Promise<DatasetReport> {
  const { limit = Number.POSITIVE_INFINITY, columns, template } = options;
  const reader = new ExampleReader(options.rows);
  const builder = new SampleBuilder(options);
  let read = 0;
  const held: ExampleRow[] = [];
  for await (const piece of rows()) {
    const samples: Sample[] = [];
    for (const row of piece) {
      if (read === limit) break;
      if (read++ % 256 === 0) options.onProgress?.(read - 1);
      const example = readRenamed(row, columns, (each) => reader.read(each));
      if (reader.splitsPairs) held.push(example);
      else push(samples, builder.add(example));
    }
    await take(samples);
    if (read === limit) break;
  }
  const rated: Sample[] = [];
  for (const example of eachRated(held)) push(rated, builder.add(example));
  await take(rated);
  options.onProgress?.(read);
  const ignoredKeys = Object.fromEntries(
    Object.entries(reader.ignoredKeys).filter(([key]) => {
      const ofMessage = /\[\]\.(.*)$/s.exec(key)?.[1];
      return ofMessage === undefined || !template?.mentions(ofMessage);
    }),
  );
  return builder.report({ file: name, dataHash: hash, format: reader.format.name, ignoredKeys });
}

function push(samples: Sample[], sample: Sample | undefined): void {
  if (sample) samples.push(sample);
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

/** Everything that samples depend on. The name is in it because rows carry it. */
function cacheKey({ name, hash }: DataFile, options: DatasetOptions): string {
  const parts = [
    SAMPLE_CACHE_VERSION,
    name,
    hash,
    options.tokenizer.hash,
    options.template?.hash ?? "",
    options.trainOn ?? "",
    options.date?.toISOString() ?? "",
    options.sequenceLength,
    options.overLength,
    options.limit ?? "",
    options.columns ?? "",
  ];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
}
