// A line of a comparison's table, and what a search for the cheapest adapter came to: plain data that the comparison makes,
// keep.ts looks through and report.ts prints.

import type { Method } from "../config/fields.ts";
import type { Interval } from "../metrics/bootstrap.ts";
import type { AdapterKindName } from "../nn/adapter-kinds/index.ts";
import type { AdapterInit } from "../nn/pissa.ts";
import type { ObjectiveName } from "../objectives/index.ts";
import type { Difference, Kept } from "./quality-kept.ts";

/** What tells a row from the others, beside its learning rate, which is looked for. */
export interface Variant {
  readonly method: Method;
  /** 0 for full fine-tuning. */
  readonly rank: number;
  readonly adapter: AdapterKindName;
  readonly init: AdapterInit;
  readonly objective: ObjectiveName;
}

export interface ComparedRow {
  /** base, full, lora-r8, qlora-dora-r8, lora-pissa-r8, lora-dpo-r8. */
  readonly name: string;
  readonly method: Method | "base";
  readonly rank: number;
  /** Absent for the base and for full fine-tuning. */
  readonly adapter?: AdapterKindName;
  readonly init?: AdapterInit;
  /** Absent for the base. */
  readonly objective?: ObjectiveName;
  readonly learningRate?: number;
  /** Every rate tried, with its validation loss (null: the run diverged). */
  readonly tried: readonly { readonly learningRate: number; readonly validationLoss: number | null }[];
  readonly atEdge: boolean;
  readonly trainableParameters: number;
  readonly peakBytes?: number;
  readonly tokensPerSecond?: number;
  readonly seconds?: number;
  readonly cost?: number;
  /** Means over the seeds, as are times, speeds and costs. */
  readonly scores: Readonly<Record<string, number>>;
  /** Of rows and seeds; quality-kept.ts says how. */
  readonly standardErrors: Readonly<Record<string, number>>;
  /** Of rows alone. */
  readonly intervals: Readonly<Record<string, Interval>>;
  /** One a seed; absent for the base. */
  readonly seeds?: readonly SeedRun[];
  /** Share of full fine-tuning's quality; absent without a full run. */
  readonly kept?: Kept;
  /** Share of full fine-tuning's gain over the base, in percent; absent where there is no full run or no gain. */
  readonly gained?: number;
  /** Whether it differs from full fine-tuning, or where that is not among the rows, from the first one trained. */
  readonly difference?: Difference;
  readonly folder?: string;
  readonly course: readonly (readonly [number, number])[];
}

export interface SeedRun {
  readonly seed: number;
  readonly folder: string;
  readonly validationLoss: number;
  readonly scores: Readonly<Record<string, number>>;
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
