// One training run of a comparison: a normal run folder, like `lowrank train` makes. A folder that already holds the
// finished run is taken as it is, one that was interrupted continues, so that a comparison can be stopped at any time.

import { existsSync } from "node:fs";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { CompareOptions } from "../config/compare-options.ts";
import { adapterFields } from "../config/fields.ts";
import { resolveOptions } from "../config/resolve.ts";
import { type TrainOptions, trainDefinition } from "../config/train-options.ts";
import { hashOfData } from "../data/load-sources.node.ts";
import { broadcastValue, type Collective, gatherValues } from "../distributed/collective.ts";
import type { TrainEvent } from "../train/events.ts";
import { startTraining, type TrainingRun } from "../train/worker.ts";
import type { Variant } from "./row.ts";

/** What tells the runs of one comparison apart. */
export interface RunSpec extends Variant {
  readonly learningRate: number;
  /** Where several are compared; else the comparison's own. */
  readonly seed?: number;
}

export interface TrainedRun {
  readonly spec: RunSpec;
  readonly folder: string;
  readonly trainableParameters: number;
  readonly peakBytes: number;
  readonly peakRssBytes: number;
  readonly tokensPerSecond: number;
  readonly seconds: number;
  /** Loss on the rows held back from training, by which learning rates are chosen. */
  readonly validationLoss: number;
  /** [step, loss] of every step. */
  readonly course: readonly (readonly [number, number])[];
}

export interface Interruption {
  /** Set while a run is going on. */
  current?: TrainingRun;
  requested: boolean;
}

/** lora-r8; what is as usual has no name: qlora-dora-r8, lora-pissa-r8, lora-dpo-r8. */
export function variantName({ method, rank, adapter, init, objective }: Variant): string {
  const own = [
    ...(adapter === "lora" ? [] : [adapter]),
    ...(init === "default" ? [] : [init]),
    ...(objective === "sft" ? [] : [objective]),
    ...(rank > 0 ? [`r${rank}`] : []),
  ];
  return [method, ...own].join("-");
}

export function runName(spec: RunSpec): string {
  const seed = spec.seed === undefined ? "" : `-s${spec.seed}`;
  return `${variantName(spec)}-lr${spec.learningRate.toPrecision(3)}${seed}`;
}

/** The options that `lowrank train` would have for this run. */
export function trainOptionsOf(options: CompareOptions, spec: RunSpec): TrainOptions {
  const { model, data, allow, epochs, maxSteps, backend, precision, threads } = options;
  const { distributed, collectiveTimeout } = options;
  const { adapter, init, objective, seed = options.seed } = spec;
  return resolveOptions(trainDefinition, {
    ...sharedRecipe(options),
    ...{ model, data, allow, epochs, maxSteps, backend, precision, threads },
    ...{ distributed, collectiveTimeout },
    out: join(options.out, "runs", runName(spec)),
    ...(spec.method === "full" ? noAdapter : { adapter, init }),
    ...(objective === "sft" ? {} : { objective }),
    method: spec.method,
    learningRate: spec.learningRate,
    seed,
    evalFraction: options.validation,
    // Runs of a comparison are not made longer, and there are many of them.
    saveEnd: false,
    // Scale alpha / rank stays 2, so that one learning rate serves every rank.
    ...(spec.rank > 0 ? { rank: spec.rank, alpha: 2 * spec.rank } : {}),
  });
}

/** What says how an adapter is made says nothing to full fine-tuning. */
const noAdapter = Object.fromEntries(
  Object.keys(adapterFields)
    .filter((key) => key !== "method")
    .map((key) => [key, undefined]),
);

/** What the comparison's own options say of a run's recipe. */
function sharedRecipe(options: CompareOptions): Readonly<Record<string, unknown>> {
  const given = options as unknown as Readonly<Record<string, unknown>>;
  const keys = Object.keys(trainDefinition.fields).filter((key) => !trainDefinition.places.includes(key));
  return Object.fromEntries(keys.filter((key) => key in given).map((key) => [key, given[key]]));
}

/** Trains, or reads what an earlier call trained; undefined when it was interrupted. Rank 0 reads for all ranks. */
export async function trainOne(
  options: CompareOptions,
  spec: RunSpec,
  interruption: Interruption,
  emit: (event: TrainEvent) => void,
  collective: Collective,
  engine?: string,
): Promise<TrainedRun | undefined> {
  const wanted = trainOptionsOf(options, spec);
  const onFirst = async <T>(read: () => Promise<T>): Promise<T> =>
    broadcastValue(collective, collective.rank === 0 ? await read() : (undefined as T));
  const finished = await onFirst(() => readFinished(wanted, spec));
  if (finished) return finished;
  const wishes = await gatherValues(collective, interruption.requested);
  if (wishes.includes(true)) return undefined;
  const resume = await onFirst(async () => {
    const started = existsSync(wanted.out);
    // A run that was stopped before it wrote anything to continue from starts again, and so does another that is done.
    const checkpoints = await readdir(join(wanted.out, "checkpoints")).catch(() => []);
    const resumes = started && checkpoints.length > 0 && !(await isDone(wanted.out));
    if (started && !resumes) await rm(wanted.out, { recursive: true });
    return resumes;
  });
  const run = startTraining({ ...wanted, resume }, emit, engine);
  interruption.current = run;
  try {
    const summary = await run.finished;
    return summary.status === "done" ? await onFirst(() => readFinished(wanted, spec)) : undefined;
  } finally {
    interruption.current = undefined;
  }
}

interface RunRecord {
  readonly status: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly dataHash: string;
  readonly trainableParameters: number;
  readonly peakBytes: number;
  readonly peakRssBytes: number;
  readonly wallMs: number;
  readonly final: { readonly evalLoss: number; readonly tokensPerSecond: number; readonly tokens: number };
}

/** The run in the folder, when it is this one and finished. */
async function readFinished(wanted: TrainOptions, spec: RunSpec): Promise<TrainedRun | undefined> {
  const text = await readFile(join(wanted.out, "run.json"), "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  const record = JSON.parse(text) as RunRecord;
  if (record.status !== "done" || !sameRun(record.options, wanted)) return undefined;
  if (record.dataHash !== (await hashOfData(wanted.data))) return undefined;
  return {
    spec,
    folder: wanted.out,
    trainableParameters: record.trainableParameters,
    peakBytes: record.peakBytes,
    peakRssBytes: record.peakRssBytes,
    tokensPerSecond: record.final.tokens / (record.wallMs / 1000),
    seconds: record.wallMs / 1000,
    validationLoss: record.final.evalLoss,
    course: await readCourse(wanted.out),
  };
}

async function isDone(folder: string): Promise<boolean> {
  const text = await readFile(join(folder, "run.json"), "utf8").catch(() => "{}");
  return (JSON.parse(text) as Partial<RunRecord>).status === "done";
}

/** Options that do not change what a run comes to. */
const idleOptions = [
  ...["resume", "saveMinutes", "saveEnd", "maxNewTokens", "distributed", "collectiveTimeout"],
];

function sameRun(recorded: Readonly<Record<string, unknown>>, wanted: TrainOptions): boolean {
  const plain = JSON.parse(JSON.stringify({ ...wanted, resume: false })) as Record<string, unknown>;
  const keys = new Set([...Object.keys(plain), ...Object.keys(recorded)]);
  for (const key of idleOptions) keys.delete(key);
  return [...keys].every((key) => JSON.stringify(recorded[key]) === JSON.stringify(plain[key]));
}

async function readCourse(folder: string): Promise<[number, number][]> {
  const lines = (await readFile(join(folder, "metrics.jsonl"), "utf8")).split("\n");
  return lines
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as { type: string; step: number; loss: number })
    .filter(({ type }) => type === "train")
    .map(({ step, loss }) => [step, loss]);
}
