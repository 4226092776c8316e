// What makes a run the run it is: every option and file that decides its course. Equal identities give equal results, and
// a checkpoint goes on only under its own. Of the options of a run, those about when to save, evaluate, print, and how to
// save memory are not in it. Where checkpoints lie: run-folder.ts.

import type { TrainOptions } from "../config/train-options.ts";
import { UserError } from "../util/errors.ts";
import type { RunState } from "./checkpoint.ts";
import type { TrainableModel, TrainingData } from "./setup.ts";

export type RunIdentity = Readonly<Record<string, unknown>>;

/** Everything that decides a run's course; equal identities give equal adapters. */
export function identityOf(
  options: TrainOptions,
  trainable: TrainableModel,
  data: TrainingData,
  totalSteps: number,
): RunIdentity {
  const {
    method,
    rank,
    alpha,
    dropout,
    targets,
    rslora,
    initAdapter,
    trainOn,
    chatTemplate,
    overLength,
    packing,
    shuffle,
  } = options;
  const { batchSize, sequenceLength, gradientAccumulation, optimizer, learningRate, schedule, warmupSteps } =
    options;
  const { beta1, beta2, epsilon, weightDecay, maxGradNorm, evalFraction, seed } = options;
  return {
    ...{
      method,
      rank,
      alpha,
      dropout,
      targets,
      rslora,
      initAdapter,
      trainOn,
      chatTemplate,
      overLength,
      packing,
      shuffle,
    },
    ...{ batchSize, sequenceLength, gradientAccumulation, optimizer, learningRate, schedule, warmupSteps },
    ...{ beta1, beta2, epsilon, weightDecay, maxGradNorm, evalFraction, seed, totalSteps },
    // nf4 was all there was: runs begun then go on.
    ...(method === "qlora" && options.quantType !== "nf4" ? { quantType: options.quantType } : {}),
    modelHash: trainable.modelHash,
    tokenizerHash: trainable.model.text.hash,
    dataHash: data.report.dataHash,
    evalDataHash: data.evalReport?.dataHash,
  };
}

/**
 * Refuses to continue a run whose course was decided by other options or files. Only the number of steps may grow;
 * returns what it was when it did.
 */
export function requireSameRun(state: RunState, identity: RunIdentity, folder: string): number | undefined {
  const before = state.identity.totalSteps as number;
  const now = identity.totalSteps as number;
  const differing = Object.keys({ ...state.identity, ...identity }).filter(
    (key) => JSON.stringify(state.identity[key]) !== JSON.stringify(identity[key]),
  );
  const grows = Number.isSafeInteger(before) && now > before;
  const fatal = differing.filter((key) => !(key === "totalSteps" && grows));
  if (fatal.length === 0) return grows ? before : undefined;
  const told = fatal
    .slice(0, 4)
    .map(
      (key) =>
        `${key} was ${JSON.stringify(state.identity[key])} and is now ${JSON.stringify(identity[key])}`,
    );
  throw new UserError(
    `${folder}: the checkpoint belongs to another run: ${told.join("; ")}. Resume with the same options and files (--max-steps and --epochs may grow), or start a new run in another --out`,
  );
}
