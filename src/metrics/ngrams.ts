// Counting n-grams and their clipped overlap, shared by BLEU, chrF and ROUGE. What a unit is (a token, a character)
// and what is done with the counts is theirs.

export type NgramCounts = Map<string, number>;

/** Adds to `counts` the n-grams of exactly n units. `separator` must not occur inside a unit. */
export function countNgrams(
  units: readonly string[],
  n: number,
  separator: string,
  counts: NgramCounts = new Map(),
): NgramCounts {
  for (let i = 0; i + n <= units.length; i++) {
    const ngram = units.slice(i, i + n).join(separator);
    counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
  }
  return counts;
}

/** Sum over n-grams of the smaller of the two counts. */
export function overlap(a: NgramCounts, b: NgramCounts): number {
  let shared = 0;
  for (const [ngram, count] of a) shared += Math.min(count, b.get(ngram) ?? 0);
  return shared;
}

/** Raises each count of `into` to at least that of `from`. */
export function mergeMaximum(into: NgramCounts, from: NgramCounts): void {
  for (const [ngram, count] of from) into.set(ngram, Math.max(into.get(ngram) ?? 0, count));
}

/** How many n-grams of n units a sequence of `length` units has. */
export function ngramTotal(length: number, n: number): number {
  return Math.max(length - n + 1, 0);
}
