// Exact match: the share of predictions equal to one of their references, from 0 to 1. Whitespace at both ends is
// trimmed from prediction and reference (generation often adds a leading space or a last newline); nothing else is
// forgiven: case, punctuation, inner whitespace and Unicode normal form all count.

import { meanOf, type TextMetric } from "./text-metric.ts";
import { strip } from "./whitespace.ts";

/** Whether the prediction, trimmed, equals a trimmed reference. */
export function isExactMatch(prediction: string, references: readonly string[]): boolean {
  const trimmed = strip(prediction);
  return references.some((reference) => strip(reference) === trimmed);
}

export const exactMatch: TextMetric<number> = {
  name: "exact-match",
  row: (prediction, references) => (isExactMatch(prediction, references) ? 1 : 0),
  combine: (rows) => ({ exactMatch: meanOf(rows) }),
};
