// The course of the learning rate as options of several commands, and the rules between them. Not here: the courses
// themselves (optim/schedule.ts), how ratios become steps (train/learning-rate.ts).

import { type DecayShape, decayShapes, type ScheduleName, scheduleNames } from "../optim/schedule.ts";
import { UsageError } from "../util/errors.ts";
import { choice, real, whole } from "./define.ts";
import { flagName } from "./resolve.ts";

export const scheduleFields = {
  schedule: choice(
    scheduleNames,
    "course of the learning rate after warm-up; wsd stays at its highest and falls in the last steps",
    { default: "linear" },
  ),
  warmupSteps: whole("steps over which the learning rate rises from 0", { default: 0 }),
  warmupRatio: real("part of the run over which it rises, in place of --warmup-steps", { min: 0, max: 1 }),
  minLearningRate: real("learning rate that linear, cosine and wsd end at", {
    min: 0,
    open: true,
    defaultText: "0",
  }),
  minLearningRateRatio: real("the same as a part of the highest learning rate", { min: 0, max: 1 }),
  decaySteps: whole("last steps of the run in which wsd falls", { min: 1, defaultText: "by --decay-ratio" }),
  decayRatio: real("the same as a part of the run", { min: 0, max: 1, defaultText: "0.1" }),
  decayShape: choice(decayShapes, "how wsd falls", { defaultText: "cosine" }),
};

/** Which of these do not go together: several commands have them all. */
export const scheduleAlternatives = [
  ["warmupSteps", "warmupRatio"],
  ["minLearningRate", "minLearningRateRatio"],
  ["decaySteps", "decayRatio"],
] as const;

/** UsageError where a course is given what it has no use for. */
export function checkSchedule(values: {
  readonly schedule: ScheduleName;
  readonly learningRate?: number;
  readonly minLearningRate?: number;
  readonly minLearningRateRatio?: number;
  readonly decaySteps?: number;
  readonly decayRatio?: number;
  readonly decayShape?: DecayShape;
}): void {
  const { schedule, learningRate, minLearningRate } = values;
  for (const key of ["decaySteps", "decayRatio", "decayShape"] as const) {
    if (values[key] === undefined || schedule === "wsd") continue;
    throw new UsageError(`${flagName(key)} is of --schedule wsd; ${schedule} has no such decay.`);
  }
  for (const key of ["minLearningRate", "minLearningRateRatio"] as const) {
    if (values[key] === undefined || schedule !== "constant") continue;
    throw new UsageError(`${flagName(key)} needs a --schedule that falls: linear, cosine or wsd.`);
  }
  if (minLearningRate !== undefined && learningRate !== undefined && minLearningRate > learningRate) {
    throw new UsageError(
      `--min-learning-rate ${minLearningRate} is above the learning rate, ${learningRate}: give a lower one.`,
    );
  }
}
