// Looks at training data before the first step, the way it will be trained: what each token is and whether it is a
// target, how long rows are, and what usually makes a run disappoint (answers that are never trained, a model that never
// stops, copies, evaluation rows that were trained on, a prompt that differs from the one generation sends). Finds and
// reports; who refuses a run is train/check.ts. Memory is not data: train/check.ts adds it.

import type { Tokenizer } from "../text/tokenizer.ts";
import { UserError } from "../util/errors.ts";
import { type DatasetReport, ignoredKeysText } from "./dataset-report.ts";
import type { Rendering, Sample } from "./render.ts";
import { rowLabel } from "./row.ts";

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
  readonly lengths: { readonly median: number; readonly p95: number; readonly longest: number };
  /** Rows by length: counts of rows up to each bound. */
  readonly histogram: readonly { readonly upTo: number; readonly count: number }[];
  readonly shown: readonly ShownRow[];
  readonly findings: readonly Finding[];
}

export interface PreflightInput {
  readonly train: readonly Sample[];
  readonly report: DatasetReport;
  readonly evaluation?: readonly Sample[];
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
};

const shownRows = 5;
const shownTokens = 256;
const namedRows = 5;

export function preflight(input: PreflightInput): PreflightReport {
  const { train, report, evaluation, rendering } = input;
  const seen = new Map<string, Sample>();
  const copies: Sample[] = [];
  for (const sample of train) {
    const key = keyOf(sample);
    if (seen.has(key)) copies.push(sample);
    else seen.set(key, sample);
  }
  const shared = (evaluation ?? []).filter((sample) => seen.has(keyOf(sample)));
  const unended = train.filter((sample) => !ends(sample, rendering.tokenizer));
  const unknown = withUnknown(train, rendering.tokenizer);
  const mismatches = report.promptMismatches.map((rowId) => ({ rowId }));
  const drops = [report, ...(input.evalReport ? [input.evalReport] : [])].map((each) => each.droppedContent);
  const droppedContent = drops.reduce((sum, { samples }) => sum + samples, 0);
  const droppedShown = drops.flatMap(({ shown }) => shown).slice(0, namedRows);
  const promptMismatches = Math.max(report.promptDisagrees, mismatches.length);
  const sorted = train.map(({ ids }) => ids.length).sort((a, b) => a - b);
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
      unended.length,
      train.length,
      unended,
      () =>
        `${unended.length} of ${train.length} samples never train the end-of-text token ${JSON.stringify(rendering.tokenizer.tokenOf(rendering.tokenizer.eosId))}, so the model will not learn to stop; ${whyUnended(unended, rendering.tokenizer)}`,
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
      unknown.length,
      train.length,
      unknown,
      () =>
        `${unknown.length} of ${train.length} samples hold characters that the tokenizer has no token for; the model sees one placeholder for all of them`,
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
      copies.length,
      train.length,
      copies,
      () => `${copies.length} of ${train.length} samples repeat an earlier one token by token`,
    ),
    ...finding(
      "overlap",
      shared.length,
      evaluation?.length ?? 0,
      shared,
      () =>
        `${shared.length} of ${evaluation!.length} evaluation samples are also trained on, so evaluation will measure memory and not skill; remove them from one side`,
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
    withoutEos: unended.length,
    promptMismatches,
    droppedContent,
    unknownText: unknown.length,
    ignoredKeys: report.ignoredKeys,
    duplicates: copies.length,
    overlap: evaluation && shared.length,
    lengths: { median: at(0.5), p95: at(0.95), longest: report.longestRow.tokens },
    histogram: report.lengths,
    shown: train.slice(0, shownRows).map((sample) => show(sample, rendering.tokenizer)),
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
  samples: readonly Pick<Sample, "rowId">[],
  message: () => string,
): Finding[] {
  const share = of > 0 ? count / of : 0;
  const { warn, refuse } = thresholds[code];
  if (count === 0 || share < warn) return [];
  const rows = samples.slice(0, namedRows).map(({ rowId }) => rowLabel(rowId));
  return [{ code, level: share > refuse ? "refuse" : "warn", message: message(), rows }];
}

/** Whether a sample trains an end: its last target is one, or (many turns) any of its targets. */
function ends({ ids, targetMask }: Sample, { eosIds }: Tokenizer): boolean {
  for (let i = ids.length - 1; i >= 0; i--) if (targetMask[i] === 1 && eosIds.includes(ids[i]!)) return true;
  return false;
}

/** What ends these samples instead: most often a token of the chat template that the tokenizer does not call EOS. */
function whyUnended(unended: readonly Sample[], tokenizer: Tokenizer): string {
  const counts = new Map<number, number>();
  for (const { ids, targetMask } of unended) {
    // A line break may follow the token.
    let i = ids.length - 1;
    for (let looked = 0; i >= 0 && targetMask[i] === 1 && looked < 3; i--, looked++) {
      if (tokenizer.isAdded(ids[i]!)) {
        counts.set(ids[i]!, (counts.get(ids[i]!) ?? 0) + 1);
        break;
      }
    }
  }
  const [id, count] = [...counts].sort(([, a], [, b]) => b - a)[0] ?? [];
  if (id === undefined || count! <= unended.length / 2) {
    return "the chat template or the cut at --sequence-length leaves it out";
  }
  const token = JSON.stringify(tokenizer.tokenOf(id));
  return `they end with ${token}: if that ends an answer, pass --eos-token ${token}`;
}

function withUnknown(samples: readonly Sample[], tokenizer: Tokenizer): Sample[] {
  const name = tokenizer.specialTokens.unk_token;
  const id = name === undefined ? undefined : tokenizer.idOf(name);
  // Some tokenizers name their end of text as the unknown token, for want of one.
  if (id === undefined || tokenizer.eosIds.includes(id) || tokenizer.prefixIds.includes(id)) return [];
  return samples.filter(({ ids }) => ids.includes(id));
}

/** Equal samples, mask included, have equal keys: two FNV-1a hashes of 32 bits over ids and mask. */
function keyOf({ ids, targetMask }: Sample): string {
  let low = 0x811c9dc5;
  let high = 0x01000193;
  for (let i = 0; i < ids.length; i++) {
    const value = (ids[i]! << 1) | targetMask[i]!;
    low = Math.imul(low ^ value, 0x01000193);
    high = Math.imul(high ^ (value + i), 0x85ebca6b);
    high ^= high >>> 13;
  }
  return `${ids.length}:${low >>> 0}:${high >>> 0}`;
}

/** Samples whose tokens before the last answer are not those of the prompt that evaluation and serving send. */
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
