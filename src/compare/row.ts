// A line of a comparison's table, and what a search for the cheapest adapter came to: plain data that the comparison makes,
// keep.ts looks through and report.ts prints.

import type { Method } from "../config/fields.ts";
import type { Interval } from "../metrics/bootstrap.ts";
import type { Kept } from "./quality-kept.ts";

export interface ComparedRow {
  /** base, full, lora-r8, qlora-r8. */
  readonly name: string;
  readonly method: Method | "base";
  readonly rank: number;
  readonly learningRate?: number;
  /** Every rate tried, with its validation loss (null: the run diverged). */
  readonly tried: readonly { readonly learningRate: number; readonly validationLoss: number | null }[];
  readonly atEdge: boolean;
  readonly trainableParameters: number;
  readonly peakBytes?: number;
  readonly tokensPerSecond?: number;
  readonly seconds?: number;
  readonly cost?: number;
  readonly scores: Readonly<Record<string, number>>;
  readonly intervals: Readonly<Record<string, Interval>>;
  /** Share of full fine-tuning's quality; absent without a full run. */
  readonly kept?: Kept;
  /** Share of full fine-tuning's gain over the base, in percent; absent where there is no full run or no gain. */
  readonly gained?: number;
  readonly folder?: string;
  readonly course: readonly (readonly [number, number])[];
}

export interface KeepResult {
  readonly percent: number;
  /** The cheapest that keeps it, by its point estimate. */
  readonly found?: string;
  /** True when even the lower end of its interval keeps it. */
  readonly certain?: boolean;
  /** The one that keeps most. */
  readonly best: string;
  readonly bestPercent: number;
  readonly budget: number;
  readonly runs: number;
  /** The budget ended the search before every method's ranks were bisected. */
  readonly exhausted: boolean;
}
