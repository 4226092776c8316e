// The shape of a metric over predicted texts: statistics of one row, and a score of many rows. The split is what makes
// a bootstrap (bootstrap.ts) cheap: rows are read once and only recombined. The list of metrics: index.ts.

import { UserError } from "../util/errors.ts";

export interface TextMetric<Row> {
  /** As on the command line. */
  readonly name: string;
  /** Statistics of one prediction; `references` holds at least one acceptable text. */
  row(prediction: string, references: readonly string[]): Row;
  /** Scores by their names in reports. */
  combine(rows: readonly Row[]): Record<string, number>;
}

/** Statistics of every row. Throws UserError when the lists do not match. */
export function textRows<Row>(
  metric: TextMetric<Row>,
  predictions: readonly string[],
  references: readonly (readonly string[])[],
): Row[] {
  if (predictions.length !== references.length) {
    throw new UserError(
      `${metric.name}: ${predictions.length} predictions but ${references.length} rows of references`,
    );
  }
  return predictions.map((prediction, i) => {
    const accepted = references[i]!;
    if (accepted.length === 0) throw new UserError(`${metric.name}: row ${i + 1} has no reference`);
    return metric.row(prediction, accepted);
  });
}

/** Mean of numbers; 0 for none. */
export function meanOf(values: readonly number[]): number {
  let sum = 0;
  for (const value of values) sum += value;
  return values.length > 0 ? sum / values.length : 0;
}
