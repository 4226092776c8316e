// Corpus BLEU as sacrebleu computes it by default: tokenizer "13a", up to 4-grams, exponential smoothing, any number of
// references, case kept. Scores run from 0 to 100. For one sentence pass `effectiveOrder`.
// Source: Papineni et al. 2002; Post 2018, "A Call for Clarity in Reporting BLEU Scores"; smoothing: NIST mteval.

import { countNgrams, mergeMaximum, type NgramCounts, ngramTotal, overlap } from "./ngrams.ts";
import { type TextMetric, textRows } from "./text-metric.ts";
import { splitWords, stripEnd } from "./whitespace.ts";

const MAX_ORDER = 4;
/** Stands for log 0 where smoothing does not reach; its exponential is 0. */
const LOG_OF_ZERO = -9999999999;

export interface BleuRow {
  readonly predictionLength: number;
  /** Length of the reference nearest in length; the shorter of two equally near. */
  readonly referenceLength: number;
  /** n-grams that match and n-grams predicted, for n = 1..4. */
  readonly matches: readonly number[];
  readonly totals: readonly number[];
}

export interface BleuScore {
  /** 0..100. */
  readonly score: number;
  /** Smoothed precisions in per cent, n = 1..4. */
  readonly precisions: readonly number[];
  readonly brevityPenalty: number;
}

/** Tokens by the rules of mteval-v13a: symbols stand alone; "." and "," do unless between digits. */
export function tokenize13a(text: string): string[] {
  let line = stripEnd(text).replaceAll("<skipped>", "").replaceAll("-\n", "").replaceAll("\n", " ");
  line = line
    .replaceAll("&quot;", '"')
    .replaceAll("&amp;", "&")
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">");
  line = ` ${line} `
    .replace(/[{-~[-` -&(-+:-@/]/gu, " $& ")
    .replace(/([^0-9])([.,])/gu, "$1 $2 ")
    .replace(/([.,])([^0-9])/gu, " $1 $2")
    .replace(/([0-9])-/gu, "$1 - ");
  return splitWords(line);
}

/** Statistics of one prediction against its references. */
export function bleuRow(prediction: string, references: readonly string[]): BleuRow {
  const tokens = tokenize13a(prediction);
  const referenceTokens = references.map(tokenize13a);
  const matches: number[] = [];
  const totals: number[] = [];
  for (let n = 1; n <= MAX_ORDER; n++) {
    const allowed: NgramCounts = new Map();
    for (const reference of referenceTokens) mergeMaximum(allowed, countNgrams(reference, n, " "));
    matches.push(overlap(countNgrams(tokens, n, " "), allowed));
    totals.push(ngramTotal(tokens.length, n));
  }
  let referenceLength = referenceTokens[0]?.length ?? 0;
  for (const { length } of referenceTokens) {
    const nearer = Math.abs(length - tokens.length) - Math.abs(referenceLength - tokens.length);
    if (nearer < 0 || (nearer === 0 && length < referenceLength)) referenceLength = length;
  }
  return { predictionLength: tokens.length, referenceLength, matches, totals };
}

/** BLEU of rows taken together. `effectiveOrder` leaves out orders longer than the prediction. */
export function bleuOf(rows: readonly BleuRow[], effectiveOrder = false): BleuScore {
  const matches = new Array<number>(MAX_ORDER).fill(0);
  const totals = new Array<number>(MAX_ORDER).fill(0);
  let predictionLength = 0;
  let referenceLength = 0;
  for (const row of rows) {
    predictionLength += row.predictionLength;
    referenceLength += row.referenceLength;
    for (let n = 0; n < MAX_ORDER; n++) {
      matches[n]! += row.matches[n]!;
      totals[n]! += row.totals[n]!;
    }
  }
  let brevityPenalty = 1;
  if (predictionLength < referenceLength) {
    brevityPenalty = predictionLength > 0 ? Math.exp(1 - referenceLength / predictionLength) : 0;
  }
  const precisions = new Array<number>(MAX_ORDER).fill(0);
  if (matches.every((count) => count === 0)) return { score: 0, precisions, brevityPenalty };

  let order = MAX_ORDER;
  let smoothing = 1; // doubles at each order without a match
  for (let n = 0; n < MAX_ORDER && totals[n]! > 0; n++) {
    if (effectiveOrder) order = n + 1;
    if (matches[n] === 0) smoothing *= 2;
    precisions[n] = matches[n] === 0 ? 100 / (smoothing * totals[n]!) : (100 * matches[n]!) / totals[n]!;
  }
  let logSum = 0;
  for (const precision of precisions.slice(0, order)) {
    logSum += precision > 0 ? Math.log(precision) : LOG_OF_ZERO;
  }
  return { score: brevityPenalty * Math.exp(logSum / order), precisions, brevityPenalty };
}

export const bleu: TextMetric<BleuRow> = {
  name: "bleu",
  row: bleuRow,
  combine: (rows) => ({ bleu: bleuOf(rows).score }),
};

/** Corpus BLEU of predictions against lists of references, row by row. */
export function corpusBleu(
  predictions: readonly string[],
  references: readonly (readonly string[])[],
): BleuScore {
  return bleuOf(textRows(bleu, predictions, references));
}
