// How sure a score is, given that the rows are a sample: percentile bootstrap over rows. Rows are drawn with
// replacement, the score is computed again, the middle share of the results is the interval and their standard
// deviation the standard error. The same seed gives the same interval. It says nothing about the randomness of training or of generation.
// Source: Efron 1979; for metrics of translation: Koehn 2004.

import { UserError } from "../util/errors.ts";
import { Random } from "../util/rng.ts";

export interface BootstrapOptions {
  readonly resamples?: number;
  /** Share of the resampled scores inside the interval, between 0 and 1. */
  readonly confidence?: number;
  readonly seed?: number;
}

export interface Interval {
  readonly low: number;
  readonly high: number;
}

export interface Resampled extends Interval {
  readonly standardError: number;
}

/** The Philox stream of bootstrap draws; apart from those of training with the same seed. */
const BOOTSTRAP_STREAM = 0xb007;

/** An interval and a standard error for each score that `combine` computes from rows. At least one row. */
export function bootstrap<Row>(
  rows: readonly Row[],
  combine: (rows: readonly Row[]) => Record<string, number>,
  { resamples = 1000, confidence = 0.95, seed = 0 }: BootstrapOptions = {},
): Record<string, Resampled> {
  if (rows.length === 0) throw new UserError("bootstrap: there are no rows to draw from");
  if (!(confidence > 0 && confidence < 1)) {
    throw new UserError(`bootstrap: confidence ${confidence}: expected a number between 0 and 1`);
  }
  if (!(Number.isInteger(resamples) && resamples >= 2)) {
    throw new UserError(`bootstrap: ${resamples} resamples: expected a whole number of at least 2`);
  }
  const random = new Random(seed, BOOTSTRAP_STREAM);
  const drawn: Row[] = new Array(rows.length);
  const scores = new Map<string, Float64Array>();
  for (let sample = 0; sample < resamples; sample++) {
    for (let i = 0; i < drawn.length; i++) drawn[i] = rows[random.nextInt(rows.length)]!;
    for (const [name, score] of Object.entries(combine(drawn))) {
      let column = scores.get(name);
      if (!column) scores.set(name, (column = new Float64Array(resamples)));
      column[sample] = score;
    }
  }
  const intervals: Record<string, Resampled> = {};
  for (const [name, column] of scores) {
    column.sort();
    intervals[name] = {
      low: quantile(column, (1 - confidence) / 2),
      high: quantile(column, (1 + confidence) / 2),
      standardError: Math.sqrt(varianceOf(column)),
    };
  }
  return intervals;
}

/** Of a sample, divided by one less than its size; 0 for fewer than two. */
export function varianceOf(values: ArrayLike<number>): number {
  const { length } = values;
  if (length < 2) return 0;
  // From the first value on: equal values have a variance of 0 to the last bit.
  const first = values[0]!;
  let shift = 0;
  for (let i = 0; i < length; i++) shift += (values[i]! - first) / length;
  const mean = first + shift;
  let sum = 0;
  for (let i = 0; i < length; i++) sum += (values[i]! - mean) ** 2;
  return sum / (length - 1);
}

/** Linear interpolation between order statistics. */
function quantile(sorted: Float64Array, share: number): number {
  const position = share * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (sorted[above]! - sorted[below]!) * (position - below);
}
