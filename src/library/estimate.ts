// plan() and compare(): what a run will take before it is paid for, and what each method makes of one's own data. The
// counting is plan/'s, the runs are compare/'s.

import { type Comparison, compare as compareRuns } from "../compare/compare.ts";
import { writeReport } from "../compare/report.ts";
import type { Interruption } from "../compare/train-one.ts";
import { type CompareOptions, compareDefinition } from "../config/compare-options.ts";
import type { InputOf } from "../config/define.ts";
import { type PlanOptions, planDefinition } from "../config/plan-options.ts";
import { resolveInput } from "../config/resolve.ts";
import { machineMemory } from "../memory/machine-memory.ts";
import { type ExplainedLine, explain } from "../plan/explain.ts";
import { readMeasured } from "../plan/measured.ts";
import { makePlan, type Plan, readInputs } from "../plan/plan.ts";
import type { TrainEvent } from "../train/events.ts";
import { fetchOptions } from "./fetch-options.ts";
import { namedRows, type Rows } from "./rows.ts";
import type { RankOptions } from "./train.ts";

/** The options of `lowrank plan` in camelCase. */
export type PlanInput = Omit<InputOf<typeof planDefinition>, "data" | "json"> & {
  readonly data?: Rows;
  readonly onNote?: (message: string) => void;
};

export interface ExplainedPlan extends Plan {
  /** The derivation line by line, with `explain: true`. */
  readonly explain?: readonly ExplainedLine[];
}

/** Part of the free memory that a probe may fill. */
const probeShare = 0.6;

/** Memory by category, what fits, time and cost, without loading a weight. */
export async function plan({ data, onNote, ...input }: PlanInput): Promise<ExplainedPlan> {
  using rows = data === undefined ? undefined : namedRows(data, "data");
  return await planWith(resolveInput(planDefinition, { ...input, data: rows?.name }, "plan()"), onNote);
}

export async function planWith(
  options: PlanOptions,
  tell: (message: string) => void = () => {},
): Promise<ExplainedPlan> {
  await fetchOptions(planDefinition, options, { note: tell, warn: tell });
  const inputs = await readInputs(options);
  const made = await makePlan(inputs, probeShare * machineMemory().availableBytes, tell);
  if (!options.explain) return made;
  return { ...made, explain: await explain(inputs.shape, inputs.gpus, await readMeasured(), options) };
}

/** The options of `lowrank compare` in camelCase; rows may also be objects. */
export type CompareInput = Omit<
  InputOf<typeof compareDefinition>,
  "data" | "evalData" | "json" | RankOptions
> & {
  readonly data: Rows;
  readonly evalData: Rows;
  /** Aborting saves the run that is going on; the same call continues the comparison. */
  readonly signal?: AbortSignal;
  readonly onNote?: (message: string) => void;
  readonly onEvent?: (event: TrainEvent) => void;
};

/** Trains and measures every method on the same rows, and writes table and plots into `out`. */
export async function compare(input: CompareInput): Promise<Comparison> {
  const { data, evalData, signal, onNote, onEvent, ...rest } = input;
  using rows = namedRows(data, "data");
  using evalRows = namedRows(evalData, "evalData");
  const given = { ...rest, data: rows.name, evalData: evalRows.name, distributed: "off" as const };
  const options = resolveInput(compareDefinition, given, "compare()");
  const interruption: Interruption = { requested: signal?.aborted ?? false };
  const onAbort = () => {
    interruption.requested = true;
    interruption.current?.interrupt();
  };
  signal?.addEventListener("abort", onAbort);
  try {
    const hooks = { tell: onNote ?? (() => {}), event: onEvent ?? (() => {}) };
    return (await compareWith(options, interruption, hooks)).comparison;
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

/** The same with resolved options; `files` are those that it wrote. */
export async function compareWith(
  options: CompareOptions,
  interruption: Interruption,
  hooks: { tell(message: string): void; event(event: TrainEvent): void },
): Promise<{ readonly comparison: Comparison; readonly files: readonly string[] }> {
  await fetchOptions(compareDefinition, options, { note: hooks.tell, warn: hooks.tell });
  let files: readonly string[] = [];
  const finish = async (result: Comparison) => {
    files = await writeReport(options.out, result);
  };
  const comparison = await compareRuns(options, interruption, { ...hooks, finish });
  return { comparison, files };
}
