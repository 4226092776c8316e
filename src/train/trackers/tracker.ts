// What a tracker supplies. Each lives in a file beside this one and is named in index.ts; feed.ts calls it, one call at
// a time, and decides about retries. A tracker throws TrackerRefusal where asking again is of no use.

import type { TrainOptions } from "../../config/train-options.ts";
import type { Marks, Point } from "./points.ts";

/** The run as trackers know it. */
export interface TrackedRun {
  /** Ours, made at the run's first start and kept in its folder: what trackers find it by when it goes on. */
  readonly id: string;
  readonly project: string;
  readonly name: string;
  readonly out: string;
  /** The first step of this part of the run: 1, or later after --resume. */
  readonly firstStep: number;
  readonly startedMs: number;
  /** The options that decided it. */
  readonly recipe: Readonly<Record<string, string | number | boolean>>;
}

export type RunOutcome = "done" | "interrupted" | "failed";

export interface Tracker {
  readonly name: string;
  /** Where it is, without keys, for messages. */
  readonly place: string;
  /** Points of one call to send(), at most. */
  readonly batchPoints: number;
  /** Begins or goes on with the run. Returns what is there of it already, where that can be told. */
  open(run: TrackedRun, signal: AbortSignal): Promise<Marks | undefined>;
  /** Resolves when the points have arrived. */
  send(points: readonly Point[], signal: AbortSignal): Promise<void>;
  close(outcome: RunOutcome, signal: AbortSignal): Promise<void>;
}

export type Environment = Readonly<Record<string, string | undefined>>;

export interface TrackerKind {
  /** UsageError where its address or a key is missing. */
  create(options: TrainOptions, environment: Environment): Tracker;
  /** The project where --log-project gives none. */
  project?(environment: Environment): string | undefined;
}

/** The tracker does not take it, now or later. */
export class TrackerRefusal extends Error {
  override name = "TrackerRefusal";
}
