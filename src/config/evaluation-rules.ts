// What options about evaluation during a run, and about which step is its result, need of each other. Not here: the
// options (train-options.ts), what they do (train/run-evaluation.ts, train/best-step.ts).

import type { DataChoice } from "../data/data-source.ts";
import type { TextMetricName } from "../metrics/index.ts";
import { scoreNamed } from "../metrics/scores.ts";
import type { ObjectiveName } from "../objectives/index.ts";
import { UsageError } from "../util/errors.ts";

export interface EvaluationValues {
  readonly evalData?: DataChoice;
  readonly evalFraction?: number;
  readonly evalEvery?: number;
  readonly evalMetrics?: readonly TextMetricName[];
  readonly sample?: string;
  readonly forget?: string;
  readonly keepBest?: string;
  readonly patience?: number;
  readonly minDelta?: number;
  readonly averageCheckpoints?: number;
  readonly saveEvery?: number;
  readonly objective: ObjectiveName;
}

/** UsageError where one of them is missing; else what follows from them: the score that is watched and its metric. */
export function checkEvaluation<V extends EvaluationValues>(
  values: V,
): Pick<EvaluationValues, "keepBest" | "evalMetrics"> {
  const { evalEvery, patience, averageCheckpoints } = values;
  const rows = values.evalData ?? values.evalFraction;
  if (evalEvery !== undefined && (rows ?? values.sample ?? values.forget) === undefined) {
    throw new UsageError(
      "--eval-every has nothing to evaluate: add --eval-data F, --eval-fraction X, --forget F or --sample TEXT.",
    );
  }
  const keepBest = values.keepBest ?? (patience === undefined ? undefined : "loss");
  const asked = values.keepBest === undefined ? "--patience" : "--keep-best";
  const needs: [string, unknown][] = [
    [asked, keepBest],
    ["--eval-metrics", values.evalMetrics],
  ];
  for (const [flag, value] of needs) {
    if (value !== undefined && rows === undefined)
      throw new UsageError(`${flag} needs rows to evaluate on: add --eval-data F or --eval-fraction X.`);
  }
  if (keepBest !== undefined) checkScore(scoreNamed(keepBest).name, values.objective);
  if (keepBest !== undefined && evalEvery === undefined)
    throw new UsageError(`${asked} needs evaluations to choose among: add --eval-every N.`);
  if (values.minDelta !== undefined && patience === undefined)
    throw new UsageError("--min-delta is of --patience: add --patience N.");
  if (averageCheckpoints !== undefined && patience !== undefined)
    throw new UsageError("--average-checkpoints and --patience exclude each other: give one of them.");
  if (averageCheckpoints !== undefined && values.saveEvery === undefined)
    throw new UsageError("--average-checkpoints needs checkpoints to average: add --save-every N.");
  return {
    keepBest,
    evalMetrics: withScored(values.evalMetrics, keepBest),
  };
}

/** Rewards are of objectives that score answers, perplexity is of the cross-entropy. */
function checkScore(name: string, objective: ObjectiveName): void {
  const ofPreferences = objective !== "sft";
  if (name.startsWith("reward") && !ofPreferences)
    throw new UsageError(`--keep-best ${name} is of preferences: it needs another --objective than sft.`);
  if (name === "perplexity" && ofPreferences)
    throw new UsageError(
      `--keep-best perplexity is of --objective sft; with ${objective}, take loss or rewardAccuracy.`,
    );
}

/** The metrics of answers, with the one that is watched. */
function withScored(
  metrics: readonly TextMetricName[] | undefined,
  keepBest: string | undefined,
): readonly TextMetricName[] | undefined {
  const metric = keepBest === undefined ? undefined : scoreNamed(keepBest).metric;
  if (metric === undefined || metrics?.includes(metric)) return metrics;
  return [...(metrics ?? []), metric];
}
