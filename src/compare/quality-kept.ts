// Scores of a row with their standard errors and intervals, the share of full fine-tuning's quality that it keeps, and
// whether it differs from another at all. A row is one or several runs that differ in their seed alone; its score is the
// mean of theirs.
//
// Standard error: evaluation rows are drawn anew (bootstrap), the same for every seed, which gives the error of the mean
// that comes of the rows; with several seeds the variance among them over their number is added. Intervals are of the
// rows alone. What compares two rows of the table is paired: the same evaluation rows are drawn for both, so that what
// is hard for both does not count, and runs of one seed are set against each other.
//
// Test of a difference: its value over its standard error is held against Student's t, two-sided, at 5%; the degrees of
// freedom are those of rows and of seeds together (Welch and Satterthwaite). No correction for many comparisons.

import type { MetricName } from "../config/eval-options.ts";
import { bootstrap, type Interval, varianceOf } from "../metrics/bootstrap.ts";
import { type TextMetricName, textMetrics } from "../metrics/index.ts";
import { falls, scoresOf } from "../metrics/scores.ts";
import { twoSidedP } from "../metrics/student-t.ts";
import { meanOf, textRows } from "../metrics/text-metric.ts";
import { UserError } from "../util/errors.ts";
import type { Quality } from "./score-one.ts";

interface Scorer {
  readonly rows: readonly unknown[];
  combine(rows: readonly unknown[]): Record<string, number>;
}

/** Row statistics of a metric, ready to be drawn from. */
function scorerOf(quality: Quality, name: MetricName): Scorer {
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

export interface Estimate {
  /** Mean over the seeds. */
  readonly value: number;
  /** Of rows and seeds. */
  readonly standardError: number;
  /** Of rows. */
  readonly interval: Interval;
}

/** Every score of a row of the table; `runs` are its seeds'. */
export function estimatesOf(
  runs: readonly Quality[],
  metrics: readonly MetricName[],
  seed: number,
): Record<string, Estimate> {
  const all = metrics.map((metric) => {
    const scorers = runs.map((quality) => scorerOf(quality, metric));
    return estimate(
      scorers[0]!.rows.length,
      scorers.map((scorer) => (drawn) => scoresOn(scorer, drawn)),
      seed,
    );
  });
  const named = all.flatMap((found) => Object.entries(found));
  return Object.fromEntries(
    named.map(([name, { value, standardError, interval }]) => [name, { value, standardError, interval }]),
  );
}

export interface Kept {
  /** Percent of full fine-tuning's. */
  readonly percent: number;
  readonly standardError: number;
  readonly interval: Interval;
}

/**
 * What `runs` keep of `full`, by the score `name`: score over full's score for scores that grow with quality, full's
 * perplexity over the method's for perplexity and loss.
 */
export function keptOf(
  runs: readonly Quality[],
  full: readonly Quality[],
  metrics: readonly MetricName[],
  name: string,
  seed: number,
): Kept {
  const share = (own: number, reference: number) =>
    100 * (falls(name) ? reference / own : reference === 0 ? Number.NaN : own / reference);
  const { pairs, rows } = pairsOf(runs, full, metrics, name);
  const figure = ([own, other]: Pair, drawn: readonly number[]) =>
    share(scoresOn(own, drawn)[name]!, scoresOn(other, drawn)[name]!);
  const { value, standardError, interval } = estimateOf(rows, pairs, figure, seed);
  return { percent: value, standardError, interval };
}

export interface Difference {
  /** The row of the table that this one is held against. */
  readonly against: string;
  readonly metric: string;
  /** This row's score less the other's. */
  readonly value: number;
  readonly standardError: number;
  readonly p: number;
  readonly verdict: "better" | "worse" | "no difference";
  /** What was tested, in words. */
  readonly test: string;
}

const significance = 0.05;

/** Whether `runs` differ from `others`, the row named `against`, by the score `name`. */
export function differenceOf(
  runs: readonly Quality[],
  others: readonly Quality[],
  against: string,
  metrics: readonly MetricName[],
  name: string,
  seed: number,
): Difference {
  const { pairs, rows } = pairsOf(runs, others, metrics, name);
  const figure = ([own, other]: Pair, drawn: readonly number[]) =>
    scoresOn(own, drawn)[name]! - scoresOn(other, drawn)[name]!;
  const { value, standardError, ofRows, ofSeeds } = estimateOf(rows, pairs, figure, seed);
  const freedom =
    standardError ** 4 /
    (ofRows ** 2 / Math.max(1, rows - 1) + (pairs.length > 1 ? ofSeeds ** 2 / (pairs.length - 1) : 0));
  const p = value === 0 ? 1 : standardError === 0 ? 0 : twoSidedP(value / standardError, freedom);
  const improves = falls(name) ? value < 0 : value > 0;
  const verdict = !(p < significance) ? "no difference" : improves ? "better" : "worse";
  const seeds = pairs.length > 1 ? ` and ${pairs.length} seeds` : "";
  const test = `paired over ${rows} rows${seeds}: bootstrap standard error, Student's t, two-sided, 5%`;
  return { against, metric: name, value, standardError, p, verdict, test };
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

function scoresOfMetric(metric: MetricName): string[] {
  return metric === "perplexity" ? ["perplexity"] : scoresOf(metric as TextMetricName);
}

/** A run's scores on the evaluation rows drawn, by their numbers. */
function scoresOn({ rows, combine }: Scorer, drawn: readonly number[]): Record<string, number> {
  return combine(drawn.map((i) => rows[i]));
}

type Pair = readonly [own: Scorer, other: Scorer];

/** Runs of both sides with one seed; a side without seeds (the base) is set against every run of the other. */
function pairsOf(
  runs: readonly Quality[],
  others: readonly Quality[],
  metrics: readonly MetricName[],
  name: string,
): { readonly pairs: readonly Pair[]; readonly rows: number } {
  const metric = metrics.find((one) => scoresOfMetric(one).includes(name))!;
  const pairs = runs.flatMap((run) =>
    others
      .filter((other) => run.seed === undefined || other.seed === undefined || run.seed === other.seed)
      .map((other): Pair => [scorerOf(run, metric), scorerOf(other, metric)]),
  );
  return { pairs, rows: pairs[0]?.[0].rows.length ?? 0 };
}

type Resampled = Estimate & { readonly ofRows: number; readonly ofSeeds: number };

function estimateOf(
  rows: number,
  pairs: readonly Pair[],
  figure: (pair: Pair, drawn: readonly number[]) => number,
  seed: number,
): Resampled {
  const perSeed = pairs.map((pair) => (drawn: readonly number[]) => ({ figure: figure(pair, drawn) }));
  return estimate(rows, perSeed, seed).figure!;
}

/** Figures that each seed has, of evaluation rows drawn by their numbers: the same rows for all seeds. */
function estimate(
  rows: number,
  perSeed: readonly ((drawn: readonly number[]) => Record<string, number>)[],
  seed: number,
): Record<string, Resampled> {
  const all = Array.from({ length: rows }, (_, i) => i);
  const whole = perSeed.map((figures) => figures(all));
  const names = Object.keys(whole[0]!);
  const means = (found: readonly Record<string, number>[]) =>
    Object.fromEntries(names.map((name) => [name, meanOf(found.map((figures) => figures[name]!))]));
  const drawn = bootstrap(all, (some) => means(perSeed.map((figures) => figures(some))), { seed });
  const value = means(whole);
  return Object.fromEntries(
    names.map((name) => {
      const { low, high, standardError } = drawn[name]!;
      const ofRows = standardError ** 2;
      const ofSeeds = varianceOf(whole.map((figures) => figures[name]!)) / whole.length;
      const error = Math.sqrt(ofRows + ofSeeds);
      return [name, { value: value[name]!, standardError: error, interval: { low, high }, ofRows, ofSeeds }];
    }),
  );
}
