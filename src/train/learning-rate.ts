// The course of a run's learning rate, of its options and its number of steps: ratios become steps as transformers'
// TrainingArguments make them (rounded up), and an absolute floor becomes a part of the highest rate. Not here: the
// courses themselves (optim/schedule.ts), finding a rate (find-learning-rate.ts).

import type { TrainOptions } from "../config/train-options.ts";
import { type Schedule, scheduleFactor } from "../optim/schedule.ts";
import { UserError } from "../util/errors.ts";

export type ScheduleOptions = Pick<
  TrainOptions,
  | "schedule"
  | "learningRate"
  | "warmupSteps"
  | "warmupRatio"
  | "minLearningRate"
  | "minLearningRateRatio"
  | "decaySteps"
  | "decayRatio"
  | "decayShape"
>;

/** MiniCPM decays for about this part of a run. */
export const defaultDecayRatio = 0.1;

/** UserError when warm-up and decay are longer than the run. */
export function scheduleOf(options: ScheduleOptions, totalSteps: number): Schedule {
  const { schedule: name, warmupRatio, decayRatio = defaultDecayRatio, decayShape } = options;
  const stepsOf = (ratio: number) => Math.ceil(totalSteps * ratio);
  const warmupSteps = warmupRatio === undefined ? options.warmupSteps : stepsOf(warmupRatio);
  const { minLearningRate, minLearningRateRatio, learningRate } = options;
  const floor = minLearningRate === undefined ? minLearningRateRatio : minLearningRate / learningRate;
  if (name !== "wsd") return { name, warmupSteps, totalSteps, floor };
  const decaySteps = options.decaySteps ?? stepsOf(decayRatio);
  if (warmupSteps + decaySteps > totalSteps) {
    throw new UserError(
      `--schedule wsd: ${warmupSteps} steps of warm-up and ${decaySteps} of decay are more than the run's ${totalSteps}; lower --decay-steps or --warmup-steps`,
    );
  }
  return { name, warmupSteps, totalSteps, floor, decaySteps, decayShape };
}

/** The learning rate of a step, 1 for the first. */
export function learningRateAt(options: ScheduleOptions, totalSteps: number, step: number): number {
  return options.learningRate * scheduleFactor(scheduleOf(options, totalSteps), step);
}
