// A learning rate for a run, found by a short sweep (Smith 2017, "Cyclical learning rates"): the rate rises from very low to
// very high, by the same factor each step, over the run's own batches; the loss falls, is lowest, and then goes up. What is
// suggested is where the smoothed loss falls most steeply. The model is opened for it and thrown away; nothing is written.
// Not here: the chart (cli/plot.ts), the search of a comparison, which trains whole runs (compare/learning-rate.ts).

import type { Backend } from "../backend/backend.ts";
import type { Method } from "../config/fields.ts";
import type { TrainOptions } from "../config/train-options.ts";
import { accumulationOf, BatchCursor } from "../data/batches.ts";
import type { MemoryChoices } from "../memory/fit-memory.ts";
import { Session } from "../session/session.ts";
import { UserError } from "../util/errors.ts";
import type { LearningRateSweep, SweepPoint } from "./check-report.ts";
import type { TrainEvent } from "./events.ts";
import { prepareObjective } from "./run-objective.ts";
import { planOf } from "./run-steps.ts";
import { openTrainable } from "./setup.ts";
import type { TrainingData } from "./training-data.ts";

const ranges: Readonly<Record<Method, readonly [low: number, high: number]>> = {
  lora: [1e-6, 1],
  qlora: [1e-6, 1],
  full: [1e-7, 1e-1],
};
/** As fastai's: the weight of the past in the smoothed loss at a hundred steps. */
const smoothingOfHundred = 0.9;
/** A smoothed loss that has gone up by as much as it ever fell, or by this part of the first one, does not come back. */
const hopelessRise = 0.5;

/** Steps through the run's own batches at rising rates. UserError when the loss never fell. */
export async function findLearningRate(
  backend: Backend,
  options: TrainOptions,
  data: TrainingData,
  memory: MemoryChoices,
  steps: number,
  emit: (event: TrainEvent) => void,
): Promise<LearningRateSweep> {
  if (data.prompts) {
    throw new UserError(
      `--find-learning-rate does not go with --objective ${options.objective}, whose loss is near 0 at any rate; look at the reward in metrics.jsonl.`,
    );
  }
  await using trainable = await openTrainable(backend, options, emit);
  const { gradientCheckpointing: checkpointing, logitsChunkBytes } = memory;
  using session = new Session(
    trainable.model.loaded,
    options,
    { checkpointing, logitsChunkBytes },
    trainable,
  );
  await prepareObjective({ options, data, session, emit });
  const cursor = new BatchCursor(planOf(options, trainable, data));
  const accumulation = accumulationOf(options);
  return await sweep(steps, ranges[options.method], async (learningRate) => {
    const batches = cursor
      .nextStep(accumulation)
      .map((one) => session.assemble(one.map((i) => data.train.at(i)!)));
    const { maxGradNorm } = options;
    const { loss, updated } = await session.trainStep(batches, { learningRate, maxGradNorm });
    return updated ? loss : Number.NaN;
  });
}

/** The sweep over any function that makes a step at a rate and returns the loss before it. */
export async function sweep(
  steps: number,
  [low, high]: readonly [number, number],
  step: (learningRate: number) => Promise<number>,
): Promise<LearningRateSweep> {
  const curve: SweepPoint[] = [];
  const keep = smoothingOfHundred ** (100 / steps);
  let sum = 0;
  let weight = 0;
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < steps; i++) {
    const learningRate = low * (high / low) ** (i / Math.max(1, steps - 1));
    const loss = await step(learningRate);
    if (!Number.isFinite(loss)) break;
    sum = keep * sum + (1 - keep) * loss;
    weight = keep * weight + (1 - keep);
    const smoothed = sum / weight;
    curve.push({ learningRate, loss, smoothed });
    best = Math.min(best, smoothed);
    const first = curve[0]!.smoothed;
    if (smoothed - best > Math.max(first - best, hopelessRise * Math.abs(first))) break;
  }
  return { ...suggestionOf(curve), stopped: curve.length < steps, curve };
}

/** Of a curve that was swept. */
export function suggestionOf(curve: readonly SweepPoint[]): Pick<LearningRateSweep, "suggestion" | "lowest"> {
  const lowest = curve.reduce((at, point, i) => (point.smoothed < curve[at]!.smoothed ? i : at), 0);
  let steepest: number | undefined;
  let most = 0;
  // Over several steps, so that a single easy batch does not decide.
  const span = Math.max(1, Math.round(curve.length / 20));
  for (let i = span; i + span <= lowest; i++) {
    const fall = curve[i - span]!.smoothed - curve[i + span]!.smoothed;
    if (fall > most) [most, steepest] = [fall, i];
  }
  if (steepest === undefined) {
    throw new UserError(
      "--find-learning-rate: the loss did not fall at any rate; give more steps (--find-steps), larger batches or more data",
    );
  }
  return { suggestion: rounded(curve[steepest]!.learningRate), lowest: rounded(curve[lowest]!.learningRate) };
}

/** Two digits say as much as a sweep knows. */
function rounded(rate: number): number {
  return Number(rate.toPrecision(2));
}
