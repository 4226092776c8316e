// The signature of a training engine: what run.ts exports and worker.ts hosts. Types only.

import type { TrainOptions } from "../config/train-options.ts";
import type { RewardPort } from "../rollouts/judging.ts";
import type { TrainEvent, TrainSummary } from "./events.ts";

/** Read once a step. */
export interface StopSignal {
  /** Once true, the engine finishes the step, saves a checkpoint and returns "interrupted". */
  readonly interrupted: boolean;
  /** Once true, the step is the run's last: it is evaluated, and what the run has come to is its result. */
  readonly ended?: boolean;
}

export type RunTraining = (
  options: TrainOptions,
  emit: (event: TrainEvent) => void,
  signal: StopSignal,
  /** Reward functions that live on another thread, by their place in options.reward. */
  rewards?: readonly (RewardPort | undefined)[],
) => Promise<TrainSummary>;

/** A module that exports an engine. */
export interface EngineModule {
  readonly runTraining: RunTraining;
}
