// A step between its start and its end, as the run's loop (run.ts) holds it. Plain data; the device works meanwhile.

import type { Batch } from "../data/assemble.ts";
import type { StartedStep } from "../session/session.ts";
import type { RunState } from "./checkpoint.ts";

/** A step on its way: what is told and saved of it once its numbers are there. */
export interface Flight {
  readonly step: number;
  readonly batches: readonly Batch[];
  readonly learningRate: number;
  readonly startedAt: number;
  readonly numbers: StartedStep["numbers"];
  /** What a checkpoint after it holds. */
  readonly after: Pick<RunState, "passes" | "cursor" | "round">;
  /** Of completions that were written for it. */
  readonly metrics?: Readonly<Record<string, number>>;
}
