// What a run learns by: which rows it takes, how they become packed sequences, and what the step's loss makes of each
// target's log-probability. An objective is a file beside this one and a line in index.ts; session/ runs the model for it,
// and knows none by name. Everything here is arithmetic on the host, in f64, of a number a token at most.

import type { Batch } from "../data/assemble.ts";
import type { Sample } from "../data/render.ts";
import type { RowsWanted } from "../data/row.ts";

/** What a run's options say to objectives; each reads what is its own. */
export interface ObjectiveOptions {
  readonly lossType?: string | undefined;
  readonly beta?: number | undefined;
  readonly gamma?: number | undefined;
  readonly labelSmoothing?: number | undefined;
  readonly cpoAlpha?: number | undefined;
  readonly desirableWeight?: number | undefined;
  readonly undesirableWeight?: number | undefined;
  readonly clipEpsilon?: number | undefined;
  readonly clipEpsilonHigh?: number | undefined;
  readonly ratios?: string | undefined;
  readonly maxNewTokens?: number | undefined;
}

/** An objective as the registry has it. */
export interface ObjectiveKind {
  /** What it learns from, for help. */
  readonly about: string;
  readonly rows: RowsWanted;
  /** The options that it takes, each with its default; others are refused beside it. */
  readonly defaults: ObjectiveOptions;
  readonly lossTypes?: readonly string[];
  /** `options` are whole: defaults filled in. UsageError where values do not go together. */
  make(options: ObjectiveOptions): Objective;
}

export interface Objective {
  /** Looks at all samples of a data set before any of them is scored. */
  prepare?(samples: readonly Sample[], batches: BatchSizes): void;
  /** Absent: the mean cross-entropy of all targets of a step, which the device takes by itself. */
  readonly scoring?: Scoring;
  /** Of an objective on completions that the model writes: what is known of each sample, told before its first pass. */
  readonly rollouts?: {
    set(sample: Sample, rollout: Rollout): void;
    /** BugError of a sample without one. */
    of(sample: Sample): Rollout;
  };
}

/** What the completions of a sample came to. */
export interface Rollout {
  /** By completion: how much better than its prompt's others it is. */
  readonly advantages: readonly number[];
  /** Log-probability of each target when it was written; taken from its first pass where absent. */
  old?: Float64Array;
}

export interface BatchSizes {
  /** Samples of a micro-batch. */
  readonly batchSize: number;
  /** Most tokens of a sequence. */
  readonly sequenceLength: number;
}

export interface Scoring {
  /** The prompt's own tokens are targets too. */
  readonly scoresPrompts?: boolean;
  /** Wants the log-probabilities of the model as it was before the run, or of its base. */
  readonly reference: boolean;
  /** Samples that a pass without gradients looks at first, one for each of the micro-batch's, or none. */
  ahead?(samples: readonly Sample[]): readonly Sample[];
  /** Given all micro-batches of a step, or of an evaluation, what scores each of them: sums over all of them divide. */
  begin(batches: readonly Batch[]): (micro: ScoredPass) => Score;
  /** Metrics that are made of others, once those are means. */
  derived?(means: Readonly<Record<string, number>>): Readonly<Record<string, number>>;
}

/** What the model gives for one micro-batch. */
export interface ScoredPass {
  readonly batch: Batch;
  /** Of each target, in nats: [N], as batch.scored has them. */
  readonly logProbs: Float64Array;
  /** The same of the reference. */
  readonly reference?: Float64Array;
  /** Of the samples that ahead() named. */
  readonly ahead?: ScoredPass;
}

export interface Score {
  /** This micro-batch's part of the step's loss: parts add up. */
  readonly loss: number;
  /** Derivative of the step's loss by each target's log-probability: [N]. */
  readonly gradients: Float64Array;
  readonly metrics: MetricSums;
}

/** Name to a sum and what it is divided by, so that micro-batches' and ranks' add up. */
export type MetricSums = Readonly<Record<string, readonly [sum: number, count: number]>>;

/** The means of all; a metric of nothing is left out. */
export function meansOf(all: readonly MetricSums[]): Record<string, number> {
  const sums = new Map<string, [number, number]>();
  for (const metrics of all) {
    for (const [name, [sum, count]] of Object.entries(metrics)) {
      const before = sums.get(name) ?? [0, 0];
      sums.set(name, [before[0] + sum, before[1] + count]);
    }
  }
  return Object.fromEntries(
    [...sums].flatMap(([name, [sum, count]]) => (count > 0 ? [[name, sum / count]] : [])),
  );
}
