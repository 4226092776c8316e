// ROUGE-1, ROUGE-2 and ROUGE-L as the rouge_score package computes them with its default tokenizer and no stemming:
// lower case, maximal runs of a-z and 0-9 (so a text without Latin letters has no tokens and scores 0). From 0 to 1.
// Several references: the one with the best F1 counts, for each score apart. A corpus' score is the mean over rows.
// ROUGE-L here is the sentence-level one; line breaks have no meaning. Source: Lin 2004, "ROUGE".

import { countNgrams, ngramTotal, overlap } from "./ngrams.ts";
import { meanOf, type TextMetric } from "./text-metric.ts";

export interface RougeScore {
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
}

export interface RougeRow {
  readonly rouge1: RougeScore;
  readonly rouge2: RougeScore;
  readonly rougeL: RougeScore;
}

/** Scores of one prediction. */
export function rougeRow(prediction: string, references: readonly string[]): RougeRow {
  const predicted = tokenize(prediction);
  const expected = references.map(tokenize);
  return {
    rouge1: best(expected.map((reference) => ngramScore(reference, predicted, 1))),
    rouge2: best(expected.map((reference) => ngramScore(reference, predicted, 2))),
    rougeL: best(
      expected.map((reference) =>
        scoreOf(commonSubsequence(reference, predicted), predicted.length, reference.length),
      ),
    ),
  };
}

function tokenize(text: string): string[] {
  return text.toLowerCase().match(/[a-z0-9]+/g) ?? [];
}

function ngramScore(reference: string[], predicted: string[], n: number): RougeScore {
  const matches = overlap(countNgrams(reference, n, " "), countNgrams(predicted, n, " "));
  return scoreOf(matches, ngramTotal(predicted.length, n), ngramTotal(reference.length, n));
}

function scoreOf(matches: number, predicted: number, expected: number): RougeScore {
  const precision = predicted > 0 ? matches / predicted : 0;
  const recall = expected > 0 ? matches / expected : 0;
  const f1 = precision + recall > 0 ? (2 * precision * recall) / (precision + recall) : 0;
  return { precision, recall, f1 };
}

/** The first score with the highest F1. */
function best(scores: readonly RougeScore[]): RougeScore {
  return scores.reduce((highest, score) => (score.f1 > highest.f1 ? score : highest));
}

/** Length of the longest common subsequence: time a.length * b.length, memory b.length. */
function commonSubsequence(a: readonly string[], b: readonly string[]): number {
  const lengths = new Uint32Array(b.length + 1);
  for (const token of a) {
    let diagonal = 0; // lengths[j - 1] of the previous row
    for (let j = 1; j <= b.length; j++) {
      const above = lengths[j]!;
      lengths[j] = token === b[j - 1] ? diagonal + 1 : Math.max(above, lengths[j - 1]!);
      diagonal = above;
    }
  }
  return lengths[b.length]!;
}

export const rouge: TextMetric<RougeRow> = {
  name: "rouge",
  row: rougeRow,
  combine: (rows) => ({
    rouge1: meanOf(rows.map((row) => row.rouge1.f1)),
    rouge2: meanOf(rows.map((row) => row.rouge2.f1)),
    rougeL: meanOf(rows.map((row) => row.rougeL.f1)),
  }),
};
