// What a preflight found: the rows, the memory, and what speaks against the run. Made by check.ts.

import type { Finding, PreflightReport } from "../data/preflight.ts";
import type { MemoryCheck } from "../memory/fit-memory.ts";
import type { Capacity } from "./capacity.ts";

export interface CheckReport extends PreflightReport {
  readonly memory: MemoryCheck;
  /** Bits in the targets against an adapter's; absent for full fine-tuning and for preferences. */
  readonly capacity?: Capacity;
  /** With --find-learning-rate. */
  readonly learningRate?: LearningRateSweep;
  /** Findings that stop the run as it is asked for. */
  readonly refused: readonly Finding[];
}

export interface SweepPoint {
  readonly learningRate: number;
  readonly loss: number;
  /** Mean of the steps so far, recent ones counting most. */
  readonly smoothed: number;
}

/** What --find-learning-rate found; made by find-learning-rate.ts. */
export interface LearningRateSweep {
  /** Where the smoothed loss falls most steeply by the logarithm of the rate. */
  readonly suggestion: number;
  /** Where the smoothed loss is lowest: what a run's rate should stay well below. */
  readonly lowest: number;
  /** The loss went up beyond recovery, or was no number, before the sweep's last step. */
  readonly stopped: boolean;
  readonly curve: readonly SweepPoint[];
}
