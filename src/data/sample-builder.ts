// Examples to samples, one at a time, with a report of everything that happened on the way: what was dropped, cut, or
// teaches nothing. Nothing is cut silently. Rendering of one example: render.ts; files and the cache: dataset.node.ts.

import { UserError } from "../util/errors.ts";
import type { Dataset, DatasetReport, OverLength } from "./dataset-report.ts";
import type { ExampleRow } from "./index.ts";
import { promptDiffers, triesRow } from "./prompt-round-trip.ts";
import {
  type RenderedExample,
  type Rendering,
  renderExample,
  type Sample,
  targetTokensOf,
} from "./render.ts";
import { cutFork, everyEnds, renderAlternatives } from "./render-forks.ts";
import { type RowId, type RowsWanted, rowLabel } from "./row.ts";

export interface SampleOptions extends Rendering {
  /** What rows must give; any targets when absent. */
  readonly rows?: RowsWanted | undefined;
  readonly sequenceLength: number;
  readonly overLength: OverLength;
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
  options: SampleOptions,
  origin: DatasetOrigin,
): Dataset<readonly Sample[]> {
  const builder = new SampleBuilder(options);
  const samples: Sample[] = [];
  for (const example of examples) {
    const sample = builder.add(example);
    if (sample !== undefined) samples.push(sample);
  }
  return { samples, report: builder.report(origin) };
}

export class SampleBuilder {
  private rows = 0;
  private samples = 0;
  private readonly buckets = new Map<number, number>();
  private readonly count = {
    ...{ over: 0, withoutTargets: 0, withoutEos: 0, promptDisagrees: 0, tokens: 0, targetTokens: 0 },
  };
  private readonly dropped = { samples: 0, shown: [] as string[] };
  private readonly promptMismatches: RowId[] = [];
  private longest: { readonly tokens: number; readonly id: RowId } | undefined;
  private firstKind: string | undefined;
  /** The same, of alternatives the first one's. */
  private firstText: string | undefined;
  private hasChats = false;
  private hasWholeChats = false;

  constructor(private readonly options: SampleOptions) {
    const { sequenceLength } = options;
    if (!Number.isSafeInteger(sequenceLength) || sequenceLength < 2) {
      throw new UserError(`--sequence-length ${sequenceLength}: expected a whole number of at least 2.`);
    }
  }

  /** The sample of a row; undefined where it is left out. */
  add({ id, example }: ExampleRow): Sample | undefined {
    const { options, count, dropped } = this;
    const { sequenceLength, overLength } = options;
    const row = this.rows++;
    this.firstKind ??= example.kind;
    const own = example.kind === "alternatives" ? example.each[0]! : example;
    this.firstText ??= own.kind;
    if (own.kind === "chat") this.hasChats = true;
    if (example.kind === "chat" && example.completionFrom === undefined) this.hasWholeChats = true;
    const rendered = renderRow(example, id, options);
    const length = lengthOf(rendered);
    if (this.longest === undefined || length > this.longest.tokens) this.longest = { tokens: length, id };
    const bucket = 2 ** Math.ceil(Math.log2(Math.max(1, length)));
    this.buckets.set(bucket, (this.buckets.get(bucket) ?? 0) + 1);
    if (!rendered.promptAgrees) count.promptDisagrees++;
    if (length > sequenceLength) {
      count.over++;
      if (overLength !== "truncate") return undefined;
    }
    const sample = cut(rendered, id, sequenceLength);
    const targets = sample ? targetTokensOf(sample) : 0;
    if (!sample || targets === 0) {
      count.withoutTargets++;
      return undefined;
    }
    if (!ends(sample, options.tokenizer.eosIds)) count.withoutEos++;
    if (rendered.dropped !== undefined) {
      dropped.samples++;
      if (dropped.shown.length < shownDrops) dropped.shown.push(`${rowLabel(id)}, ${rendered.dropped}`);
    }
    count.tokens += sample.ids.length;
    count.targetTokens += targets;
    this.samples++;
    if (triesRow(row) && promptDiffers(example, sample, options)) this.promptMismatches.push(id);
    return sample;
  }

  /** Of all rows that were added. UserError under "error" where some are over the sequence length. */
  report(origin: DatasetOrigin): DatasetReport {
    const { options, count, rows, longest } = this;
    const { sequenceLength, overLength } = options;
    if (overLength === "error" && count.over > 0) {
      throw new UserError(
        `${origin.file}: ${count.over} of ${rows} rows are longer than --sequence-length ${sequenceLength}; the longest is ${rowLabel(longest!.id)} with ${longest!.tokens} tokens. Raise --sequence-length, or pass --over-length drop or truncate.`,
      );
    }
    return {
      ...origin,
      trainOn: this.trainOn(),
      rendering: this.rendering(),
      rows,
      samples: this.samples,
      dropped: overLength === "drop" ? count.over : 0,
      truncated: overLength === "truncate" ? count.over : 0,
      withoutTargets: count.withoutTargets,
      withoutEos: count.withoutEos,
      promptDisagrees: count.promptDisagrees,
      promptMismatches: this.promptMismatches,
      droppedContent: this.dropped,
      tokens: count.tokens,
      targetTokens: count.targetTokens,
      longestRow: { tokens: longest?.tokens ?? 0, row: longest === undefined ? "" : rowLabel(longest.id) },
      lengths: [...this.buckets].sort(([a], [b]) => a - b).map(([upTo, n]) => ({ upTo, count: n })),
      sequenceLength,
    };
  }

  private trainOn(): DatasetReport["trainOn"] {
    if (this.firstKind === "alternatives") return "completions";
    if (this.firstKind === "text") return "all";
    return this.options.trainOn ?? (this.hasWholeChats ? "assistant" : "completions");
  }

  private rendering(): string {
    const kind = this.hasChats ? "chat" : this.firstText;
    if (kind === "chat") return this.options.template?.name ?? "as written";
    if (kind === "instruction") return this.options.template?.name ?? "headings";
    return "as written";
  }
}

function renderRow(example: ExampleRow["example"], id: RowId, options: SampleOptions) {
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
