// Scores with their bootstrap intervals, and the share of full fine-tuning's quality that a method keeps. Kept: score
// over full's score for scores that grow with quality, full's perplexity over the method's for perplexity and loss. Its
// interval is paired: the same rows are drawn for both, so that what is hard for both does not count.

import type { MetricName } from "../config/eval-options.ts";
import { bootstrap, type Interval } from "../metrics/bootstrap.ts";
import { type TextMetricName, textMetrics } from "../metrics/index.ts";
import { falls, scoresOf } from "../metrics/scores.ts";
import { textRows } from "../metrics/text-metric.ts";
import { UserError } from "../util/errors.ts";
import type { Quality } from "./score-one.ts";

interface Scorer {
  readonly rows: readonly unknown[];
  combine(rows: readonly unknown[]): Record<string, number>;
}

/** Row statistics of each metric, ready to be drawn from. */
function scorers(quality: Quality, metrics: readonly MetricName[]): Scorer[] {
  return metrics.map((name): Scorer => {
    if (name === "perplexity") {
      const rows = quality.losses ?? [];
      return {
        rows,
        combine(drawn) {
          let lossSum = 0;
          let tokens = 0;
          for (const row of drawn as typeof rows) {
            lossSum += row.lossSum;
            tokens += row.targetTokens;
          }
          return { perplexity: Math.exp(lossSum / tokens) };
        },
      };
    }
    const metric = textMetrics[name as TextMetricName];
    const answers = quality.answers ?? [];
    const rows = textRows(
      metric,
      answers.map(({ prediction }) => prediction),
      answers.map(({ references }) => references),
    );
    return { rows, combine: (drawn) => metric.combine(drawn) };
  });
}

/** Names of the scores that these metrics give, quality's own first. */
export function scoreNames(metrics: readonly MetricName[]): string[] {
  return metrics.flatMap((name) =>
    name === "perplexity" ? ["perplexity"] : scoresOf(name as TextMetricName),
  );
}

/** The score that stands for quality. UserError when the metrics do not give it. */
export function qualityName(metrics: readonly MetricName[], asked: string | undefined): string {
  const names = scoreNames(metrics);
  if (asked === undefined) return names.includes("rougeL") && metrics[0] === "rouge" ? "rougeL" : names[0]!;
  if (names.includes(asked)) return asked;
  throw new UserError(`--quality ${asked}: the metrics measured give ${names.join(", ")}`);
}

export function scoreIntervals(
  quality: Quality,
  metrics: readonly MetricName[],
  seed: number,
): Record<string, Interval> {
  const intervals: Record<string, Interval> = {};
  for (const { rows, combine } of scorers(quality, metrics)) {
    Object.assign(intervals, bootstrap(rows, combine, { seed }));
  }
  return intervals;
}

export interface Kept {
  /** Percent of full fine-tuning's. */
  readonly percent: number;
  readonly interval: Interval;
}

/**
 * How much of what full fine-tuning gained over the base a method gains too, in percent: a base that is good already
 * makes every share of the score look high. Undefined where full fine-tuning gained nothing.
 */
export function gainOf(
  own: Readonly<Record<string, number>>,
  full: Readonly<Record<string, number>>,
  base: Readonly<Record<string, number>>,
  name: string,
): number | undefined {
  // Perplexities are compared as the losses they are the exponentials of.
  const value = (scores: Readonly<Record<string, number>>) =>
    name === "perplexity" ? -Math.log(scores[name]!) : falls(name) ? -scores[name]! : scores[name]!;
  const gained = value(full) - value(base);
  return gained > 0 ? (100 * (value(own) - value(base))) / gained : undefined;
}

/** What `quality` keeps of `full`, by the score `name`. */
export function keptOf(
  quality: Quality,
  full: Quality,
  metrics: readonly MetricName[],
  name: string,
  seed: number,
): Kept {
  const [mine, theirs] = [scorers(quality, metrics), scorers(full, metrics)];
  const index = mine.findIndex(({ rows, combine }) => name in combine(rows));
  const [a, b] = [mine[index]!, theirs[index]!];
  const share = (own: number, reference: number) =>
    100 * (falls(name) ? reference / own : reference === 0 ? Number.NaN : own / reference);
  const pairs = a.rows.map((row, i) => [row, b.rows[i]] as const);
  const combine = (drawn: readonly (readonly [unknown, unknown])[]) => ({
    kept: share(a.combine(drawn.map(([row]) => row))[name]!, b.combine(drawn.map(([, row]) => row))[name]!),
  });
  return { percent: combine(pairs).kept, interval: bootstrap(pairs, combine, { seed }).kept! };
}
