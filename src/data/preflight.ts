// Looks at training data before the first step, the way it will be trained: what each token is and whether it is a
// target, how long rows are, and what usually makes a run disappoint (answers that are never trained, a model that never
// stops, copies, evaluation rows that were trained on, a prompt that differs from the one generation sends). Finds and
// reports; who refuses a run is train/check.ts. Memory is not data: train/check.ts adds it.

import type { Tokenizer } from "../text/tokenizer.ts";
import { UserError } from "../util/errors.ts";
import { type DatasetReport, ignoredKeysText } from "./dataset-report.ts";
import { type MixedSource, type MixReport, mixOf } from "./mix-report.ts";
import { NEAR_GRAM, NEAR_SHARE, type NearPair, nearDuplicates, nearTraining } from "./near-duplicates.ts";
import type { Rendering, Sample } from "./render.ts";
import { rowLabel } from "./row.ts";
import { lengthsOf, type Samples } from "./samples.ts";
import { walkTraining } from "./walk-training.ts";

export const findingCodes = [
  "length",
  "empty-targets",
  "missing-eos",
  "prompt-mismatch",
  "dropped-content",
  "unknown-text",
  "ignored-keys",
  "duplicates",
  "overlap",
  "near-duplicates",
  "near-overlap",
  "equal-answers",
  "memory",
  "capacity",
] as const;
export type FindingCode = (typeof findingCodes)[number];

export interface Finding {
  readonly code: FindingCode;
  /** "refuse": the run would be wasted or its figures worthless; --allow CODE runs it all the same. */
  readonly level: "warn" | "refuse";
  readonly message: string;
  /** A few of the rows it is about. */
  readonly rows: readonly string[];
}

export interface ShownToken {
  readonly text: string;
  readonly target: boolean;
}

export interface ShownRow {
  readonly row: string;
  readonly tokens: readonly ShownToken[];
  /** Tokens of the row that are not shown. */
  readonly more: number;
}

export interface PreflightReport {
  readonly file: string;
  readonly format: string;
  readonly trainOn: string;
  readonly rendering: string;
  readonly rows: number;
  readonly samples: number;
  readonly tokens: number;
  readonly targetTokens: number;
  readonly dropped: number;
  readonly cut: number;
  readonly withoutTargets: number;
  readonly withoutEos: number;
  readonly promptMismatches: number;
  /** Samples, of evaluation too, whose conversation the chat template shows only in part. */
  readonly droppedContent: number;
  /** Samples that hold characters the tokenizer has no token for. */
  readonly unknownText: number;
  /** Keys of rows and their messages that nothing reads, with how many rows have them. */
  readonly ignoredKeys: Readonly<Record<string, number>>;
  /** Rows that repeat an earlier one, token by token. */
  readonly duplicates: number;
  /** Evaluation samples that are also trained on; absent without evaluation rows. */
  readonly overlap?: number;
  /** Training samples that nearly repeat an earlier one; absent where there are too many samples to look. */
  readonly nearDuplicates?: number;
  /** Evaluation samples that nearly repeat a training sample; absent without evaluation rows. */
  readonly nearOverlap?: number;
  /** What each source of data gives. */
  readonly mix: readonly MixReport[];
  readonly lengths: { readonly median: number; readonly p95: number; readonly longest: number };
  /** Rows by length: counts of rows up to each bound. */
  readonly histogram: readonly { readonly upTo: number; readonly count: number }[];
  readonly shown: readonly ShownRow[];
  readonly findings: readonly Finding[];
}

export interface PreflightInput {
  readonly train: Samples;
  readonly report: DatasetReport;
  /** Where the samples come from; one source when absent. */
  readonly sources?: readonly MixedSource[];
  readonly evaluation?: Samples;
  /** Of a file of evaluation rows; absent when those come from the training rows, or there are none. */
  readonly evalReport?: DatasetReport;
  readonly rendering: Rendering;
}

/** Shares of the rows from which a finding is worth a word, and from which the run is refused. */
const thresholds: Readonly<
  Record<Exclude<FindingCode, "memory" | "capacity">, { warn: number; refuse: number }>
> = {
  length: { warn: 0, refuse: 0.5 },
  "empty-targets": { warn: 0, refuse: 0.5 },
  "missing-eos": { warn: 0, refuse: 0.5 },
  // Templates of reasoning models open a thought in the prompt that finished answers do not show: a word, no more.
  "prompt-mismatch": { warn: 0, refuse: Number.POSITIVE_INFINITY },
  // What was written for the model to read and is not there, in as little as one row.
  "dropped-content": { warn: 0, refuse: 0 },
  // Tokenizers without byte fallback turn what they do not know into one token; some of it is ordinary.
  "unknown-text": { warn: 0.05, refuse: Number.POSITIVE_INFINITY },
  // Files carry ids, scores and sources beside what is learnt.
  "ignored-keys": { warn: 0, refuse: Number.POSITIVE_INFINITY },
  duplicates: { warn: 0.02, refuse: 0.5 },
  overlap: { warn: 0, refuse: 0.02 },
  // Rows of one mould are near each other, and may be meant to be.
  "near-duplicates": { warn: 0.02, refuse: Number.POSITIVE_INFINITY },
  "near-overlap": { warn: 0, refuse: Number.POSITIVE_INFINITY },
  // Some objectives learn the chosen answers besides.
  "equal-answers": { warn: 0, refuse: Number.POSITIVE_INFINITY },
};

const shownTokens = 256;
const namedRows = 5;
/** Near copies are looked for among so many training samples at most, a second's work for 50,000. */
const nearSamples = 100_000;

export function preflight(input: PreflightInput): PreflightReport {
  const { train, report, evaluation, rendering } = input;
  const { tokenizer } = rendering;
  const { sources = [{ data: report.file, rows: report.rows, first: 0, count: train.length }] } = input;
  const walk = walkTraining({ train, evaluation, sources, tokenizer });
  const { copies, unended, unknown, shared, alike } = walk;
  // Answers to one prompt, each with its rating, are near each other by nature.
  const looksNear = train.length <= nearSamples && train.at(0)?.label === undefined;
  const nearPairs = looksNear ? nearDuplicates(train, tokenizer) : undefined;
  const nearCopies = nearPairs?.filter(({ sample }) => !walk.isCopy(sample));
  const nearShared =
    evaluation && nearTraining(train, evaluation, tokenizer).filter(({ sample }) => !walk.isShared(sample));
  const mismatches = report.promptMismatches.map((rowId) => ({ rowId }));
  const drops = [report, ...(input.evalReport ? [input.evalReport] : [])].map((each) => each.droppedContent);
  const droppedContent = drops.reduce((sum, { samples }) => sum + samples, 0);
  const droppedShown = drops.flatMap(({ shown }) => shown).slice(0, namedRows);
  const promptMismatches = Math.max(report.promptDisagrees, mismatches.length);
  const sorted = Uint32Array.from(lengthsOf(train)).sort();
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
  const findings = [
    ...finding("length", report.dropped + report.truncated, report.rows, [], () => {
      const fate = report.dropped > 0 ? `were dropped` : `were cut`;
      return `${report.dropped + report.truncated} of ${report.rows} rows are longer than ${report.sequenceLength} tokens and ${fate}; the longest, ${report.longestRow.row}, has ${report.longestRow.tokens}. Raise --sequence-length`;
    }),
    ...finding(
      "empty-targets",
      report.withoutTargets,
      report.rows,
      [],
      () =>
        `${report.withoutTargets} of ${report.rows} rows have no token to learn under --train-on ${report.trainOn} and were left out`,
    ),
    ...finding(
      "missing-eos",
      unended.count,
      train.length,
      unended.shown,
      () =>
        `${unended.count} of ${train.length} samples never train the end-of-text token ${JSON.stringify(rendering.tokenizer.tokenOf(rendering.tokenizer.eosId))}, so the model will not learn to stop; ${walk.whyUnended()}`,
    ),
    ...finding(
      "prompt-mismatch",
      promptMismatches,
      report.rows,
      mismatches,
      () =>
        `in ${promptMismatches} rows, what generation will send before the answer differs from what was trained before it; the chat template adds text to the prompt that finished conversations do not hold`,
    ),
    ...finding(
      "dropped-content",
      droppedContent,
      report.rows,
      [],
      () =>
        `the chat template leaves out a part of ${droppedContent} conversations, which would be trained without it: ${droppedShown.join("; ")}. Pass a --chat-template that shows it, or take it out of the rows${droppedShown.some((shown) => shown.includes("(developer)")) ? '; most templates call the developer "system"' : ""}`,
    ),
    ...finding(
      "unknown-text",
      unknown.count,
      train.length,
      unknown.shown,
      () =>
        `${unknown.count} of ${train.length} samples hold characters that the tokenizer has no token for; the model sees one placeholder for all of them`,
    ),
    ...finding(
      "ignored-keys",
      Math.max(0, ...Object.values(report.ignoredKeys)),
      report.rows,
      [],
      () => `keys that nothing reads were ignored: ${ignoredKeysText(report.ignoredKeys)}`,
    ),
    ...finding(
      "duplicates",
      copies.count,
      train.length,
      copies.shown,
      () => `${copies.count} of ${train.length} samples repeat an earlier one token by token`,
    ),
    ...finding(
      "overlap",
      shared.count,
      evaluation?.length ?? 0,
      shared.shown,
      () =>
        `${shared.count} of ${evaluation!.length} evaluation samples are also trained on, so evaluation will measure memory and not skill; remove them from one side`,
    ),
    ...finding(
      "near-duplicates",
      nearCopies?.length ?? 0,
      train.length,
      shownPairs(nearCopies, train),
      () =>
        `${nearCopies!.length} of ${train.length} samples nearly repeat an earlier one (${nearWords}); --deduplicate leaves them out`,
    ),
    ...finding(
      "near-overlap",
      nearShared?.length ?? 0,
      evaluation?.length ?? 0,
      shownPairs(nearShared, evaluation, train),
      () =>
        `${nearShared!.length} of ${evaluation!.length} evaluation samples nearly repeat a training sample (${nearWords}), so evaluation measures memory as well; remove them from one side unless rows of one mould are meant`,
    ),
    ...finding(
      "equal-answers",
      alike.count,
      train.length,
      alike.shown,
      () =>
        `${alike.count} of ${train.length} pairs have a chosen answer that equals the rejected one, which says nothing of what is better; take them out`,
    ),
  ];
  return {
    file: report.file,
    format: report.format,
    trainOn: report.trainOn,
    rendering: report.rendering,
    rows: report.rows,
    samples: train.length,
    tokens: report.tokens,
    targetTokens: report.targetTokens,
    dropped: report.dropped,
    cut: report.truncated,
    withoutTargets: report.withoutTargets,
    withoutEos: unended.count,
    promptMismatches,
    droppedContent,
    unknownText: unknown.count,
    ignoredKeys: report.ignoredKeys,
    duplicates: copies.count,
    overlap: evaluation && shared.count,
    nearDuplicates: nearCopies?.length,
    nearOverlap: nearShared?.length,
    mix: mixOf(sources, walk.parts),
    lengths: { median: at(0.5), p95: at(0.95), longest: report.longestRow.tokens },
    histogram: report.lengths,
    shown: walk.first.map((sample) => show(sample, tokenizer)),
    findings,
  };
}

/** The findings that stop a run, without those the user allows. */
export function refused(findings: readonly Finding[], allowed: readonly FindingCode[]): Finding[] {
  return findings.filter(({ level, code }) => level === "refuse" && !allowed.includes(code));
}

/** UserError that names every refused finding and how to run in spite of it. */
export function refuseRun(findings: readonly Finding[], allowed: readonly FindingCode[]): void {
  const stopping = refused(findings, allowed);
  if (stopping.length === 0) return;
  const codes = stopping.map(({ code }) => code).join(",");
  const told = stopping.map(
    ({ message, rows }) => message + (rows.length > 0 ? ` (${rows.join(", ")})` : ""),
  );
  throw new UserError(
    `preflight refuses this run: ${told.join(". ")}. \`lowrank check\` shows more; --allow ${codes} trains in spite of it`,
  );
}

function finding(
  code: Exclude<FindingCode, "memory" | "capacity">,
  count: number,
  of: number,
  samples: readonly (Pick<Sample, "rowId"> | string)[],
  message: () => string,
): Finding[] {
  const share = of > 0 ? count / of : 0;
  const { warn, refuse } = thresholds[code];
  if (count === 0 || share < warn) return [];
  const rows = samples
    .slice(0, namedRows)
    .map((sample) => (typeof sample === "string" ? sample : rowLabel(sample.rowId)));
  return [{ code, level: share > refuse ? "refuse" : "warn", message: message(), rows }];
}

const nearWords = `${NEAR_SHARE * 100}% of their runs of ${NEAR_GRAM} words`;

/** "a.jsonl line 3 (like b.jsonl line 7)" */
function shownPairs(pairs: readonly NearPair[] = [], samples: Samples = [], others = samples): string[] {
  return pairs.slice(0, namedRows).map(({ sample, earlier }) => {
    const like = rowLabel(others.at(earlier)!.rowId);
    return `${rowLabel(samples.at(sample)!.rowId)} (like ${like})`;
  });
}

/** The first tokens of a sample as they are trained. */
function show({ ids, targetMask, rowId }: Sample, tokenizer: Tokenizer): ShownRow {
  const count = Math.min(ids.length, shownTokens);
  // Tokens that hold parts of a character are decoded together: [text so far] minus [text before].
  const tokens: ShownToken[] = [];
  for (let i = 0; i < count; i++) {
    const before = Math.max(0, i - 4);
    const prefix = tokenizer.decode([...ids.slice(before, i)], { skipSpecialTokens: false });
    const through = tokenizer.decode([...ids.slice(before, i + 1)], { skipSpecialTokens: false });
    const text = through.startsWith(prefix)
      ? through.slice(prefix.length)
      : (tokenizer.tokenOf(ids[i]!) ?? "");
    tokens.push({ text, target: targetMask[i] === 1 });
  }
  return { row: rowLabel(rowId), tokens, more: ids.length - count };
}
