// The steps of a run, of its recipe and its data: which samples each is made of, and how many there are. Not here: making
// them (run.ts), batches themselves (data/batches.ts), whether a run may have more later on (run-identity.ts).

import type { TrainOptions } from "../config/train-options.ts";
import { packedLength } from "../data/assemble-forks.ts";
import { type Accumulation, accumulationOf, BatchPlan } from "../data/batches.ts";
import { lengthsOf, numbersOf, targetsOf } from "../data/samples.ts";
import { objectives } from "../objectives/index.ts";
import type { TrainEvent } from "./events.ts";
import { scheduleOf } from "./learning-rate.ts";
import { packTokens, type TrainableModel } from "./setup.ts";
import type { TrainingData } from "./training-data.ts";

export interface RunSteps {
  readonly plan: BatchPlan;
  readonly accumulation: Accumulation;
  readonly total: number;
}

/** Batches of the run's samples, by the tokens that each takes under its objective. */
export function planOf(options: TrainOptions, trainable: TrainableModel, data: TrainingData): BatchPlan {
  const { oneTable } = trainable.model.loaded.decoder.ropeCache;
  const plain = objectives[options.objective].rows === "targets";
  const lengths = plain
    ? lengthsOf(data.train)
    : numbersOf(data.train, (sample) => packedLength(sample, oneTable));
  const targets = options.batchTokens === undefined ? undefined : targetsOf(data.train);
  const sizes = { ...options, sequenceLength: packTokens(options) };
  return new BatchPlan(lengths, sizes, targets, data.draw);
}

/** UserError for a schedule that does not fit so many steps. */
export function stepsOf(options: TrainOptions, trainable: TrainableModel, data: TrainingData): RunSteps {
  const plan = planOf(options, trainable, data);
  const accumulation = accumulationOf(options);
  const total =
    options.maxSteps ?? (options.iterations ?? 1) * plan.countSteps(options.epochs ?? 1, accumulation);
  scheduleOf(options, total);
  return { plan, accumulation, total };
}

/** What is told of the data before the first step, or the first that a resumed run makes. */
export function dataEvent(
  { report, evaluation }: TrainingData,
  { plan, accumulation, total }: RunSteps,
  firstStep: number,
): TrainEvent {
  return {
    type: "data",
    rows: report.rows,
    evalRows: evaluation.length,
    tokens: report.tokens,
    targetTokens: report.targetTokens,
    stepsPerEpoch: plan.countSteps(1, accumulation),
    totalSteps: total,
    firstStep,
  };
}
