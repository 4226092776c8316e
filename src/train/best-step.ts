// Which step of a run is the best, and when a run has gone on long enough without a better one. A pure judgment over the
// evaluations so far, kept in checkpoints, so that a resumed run judges as if it had not stopped. Patience is that of
// transformers' EarlyStoppingCallback: the best step is the best by any difference, and an evaluation that is not better
// than the best before it by more than the minimum counts against the run. Not here: evaluations (run-evaluation.ts).

import type { TrainOptions } from "../config/train-options.ts";
import { type Score, scoreNamed } from "../metrics/scores.ts";
import { UserError } from "../util/errors.ts";
import type { BestStep, EvalEvent } from "./events.ts";

export interface Watched {
  readonly best?: BestStep;
  /** Evaluations since one that was better by enough. */
  readonly worse: number;
}

export interface WatchRule {
  readonly score: Score;
  /** Evaluations that may be no better; unbounded when absent. */
  readonly patience?: number;
  readonly minDelta: number;
}

/** Undefined for a run whose last step is its result. */
export function watchRuleOf(
  options: Pick<TrainOptions, "keepBest" | "patience" | "minDelta">,
): WatchRule | undefined {
  if (options.keepBest === undefined) return undefined;
  const { patience, minDelta = 0 } = options;
  return { score: scoreNamed(options.keepBest), patience, minDelta };
}

/** What is known after one more evaluation. UserError when it does not give the score. */
export function judge(rule: WatchRule, before: Watched | undefined, event: EvalEvent): Watched {
  const { name, falls } = rule.score;
  const scores = scoresIn(event);
  const value = scores[name];
  if (value === undefined) {
    throw new UserError(`--keep-best ${name}: this run's evaluations give ${Object.keys(scores).join(", ")}`);
  }
  const best = before?.best;
  const gain =
    best === undefined ? Number.POSITIVE_INFINITY : falls ? best.value - value : value - best.value;
  const { step } = event;
  return {
    best: gain > 0 && !Number.isNaN(value) ? { metric: name, step, value, scores } : best,
    worse: gain > rule.minDelta ? 0 : (before?.worse ?? 0) + 1,
  };
}

export function isExhausted(rule: WatchRule | undefined, watched: Watched | undefined): boolean {
  return rule?.patience !== undefined && watched !== undefined && watched.worse >= rule.patience;
}

function scoresIn(event: EvalEvent): Record<string, number> {
  const { type: _, step: _step, router: _router, lossStandardError: _error, ...rest } = event;
  return Object.fromEntries(Object.entries(rest).filter(([, value]) => typeof value === "number")) as Record<
    string,
    number
  >;
}
