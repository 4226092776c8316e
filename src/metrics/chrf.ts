// chrF2, the character n-gram F-score, as sacrebleu computes it by default: characters (code points) 1..6 without
// whitespace, recall weighted twice as much as precision, no word n-grams, no smoothing. From 0 to 100.
// With several references the one that scores best counts, row by row. Source: Popovic 2015, "chrF".

import { countNgrams, ngramTotal, overlap } from "./ngrams.ts";
import { type TextMetric, textRows } from "./text-metric.ts";
import { splitWords } from "./whitespace.ts";

const MAX_ORDER = 6;
const BETA_SQUARED = 4;

/** For n = 1..6: n-grams predicted (0 where the reference has none), in the reference, and matching. */
export interface ChrfRow {
  readonly predicted: readonly number[];
  readonly expected: readonly number[];
  readonly matches: readonly number[];
}

/** Statistics of one prediction against the reference on which it scores best. */
export function chrfRow(prediction: string, references: readonly string[]): ChrfRow {
  const characters = [...splitWords(prediction).join("")];
  const counts = orders.map((n) => countNgrams(characters, n, ""));
  let best: ChrfRow | undefined;
  let bestScore = -1;
  for (const reference of references) {
    const expectedCharacters = [...splitWords(reference).join("")];
    const expected = orders.map((n) => ngramTotal(expectedCharacters.length, n));
    const row = {
      predicted: orders.map((n, i) => (expected[i]! > 0 ? ngramTotal(characters.length, n) : 0)),
      expected,
      matches: orders.map((n, i) => overlap(counts[i]!, countNgrams(expectedCharacters, n, ""))),
    };
    const score = chrfOf([row]);
    if (score > bestScore) {
      best = row;
      bestScore = score;
    }
  }
  return best ?? { predicted: zeros, expected: zeros, matches: zeros };
}

/** chrF2 of rows taken together, 0..100. */
export function chrfOf(rows: readonly ChrfRow[]): number {
  let precision = 0;
  let recall = 0;
  let effectiveOrders = 0;
  for (let i = 0; i < MAX_ORDER; i++) {
    let predicted = 0;
    let expected = 0;
    let matches = 0;
    for (const row of rows) {
      predicted += row.predicted[i]!;
      expected += row.expected[i]!;
      matches += row.matches[i]!;
    }
    if (predicted === 0 || expected === 0) continue;
    precision += matches / predicted;
    recall += matches / expected;
    effectiveOrders++;
  }
  if (precision + recall === 0) return 0;
  precision /= effectiveOrders;
  recall /= effectiveOrders;
  return (100 * (1 + BETA_SQUARED) * precision * recall) / (BETA_SQUARED * precision + recall);
}

const orders = Array.from({ length: MAX_ORDER }, (_, i) => i + 1);
const zeros = orders.map(() => 0);

export const chrf: TextMetric<ChrfRow> = {
  name: "chrf",
  row: chrfRow,
  combine: (rows) => ({ chrf: chrfOf(rows) }),
};

/** Corpus chrF2 of predictions against lists of references, row by row. */
export function corpusChrf(
  predictions: readonly string[],
  references: readonly (readonly string[])[],
): number {
  return chrfOf(textRows(chrf, predictions, references));
}
