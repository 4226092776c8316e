// Runs steps of a run again, from a checkpoint or from the base, and holds what comes out against what the run has: each
// step's numbers in metrics.jsonl, and every byte of the next checkpoint's weights and optimizer state. On a machine of the same kind (backend, instruction set, precision, version of lowrank) they are
// equal to the last bit, on any number of threads and ranks; on another, losses stay within a bound. It happens in a
// temporary folder, and the run is only read. Not here: files' hashes (publish/verify-chain.ts).

import { mkdir, mkdtemp, open, readFile, rm, stat, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { resolveInput } from "../config/resolve.ts";
import { type TrainOptions, trainDefinition } from "../config/train-options.ts";
import { openFile } from "../formats/disk.ts";
import { openSafetensors } from "../formats/safetensors.ts";
import { decodeToF32 } from "../tensor/dtype.ts";
import { UserError } from "../util/errors.ts";
import { damageOf, listCheckpoints, type RunState, readState } from "./checkpoint.ts";
import type { StepEvent, TrainEvent } from "./events.ts";
import { movedRows } from "./moved-rows.ts";
import { runTraining } from "./run.ts";
import { recipeHash } from "./run-chain.ts";
import { lowrankVersion } from "./run-record.ts";

/** What a replay needs of run.json. */
export interface RecordedRun {
  readonly lowrank?: unknown;
  readonly options?: unknown;
  readonly backend?: unknown;
  readonly device?: unknown;
  readonly precision?: unknown;
  readonly gradientCheckpointing?: unknown;
  readonly totalSteps?: unknown;
  readonly chain?: { readonly recipe?: string };
}

export interface Interval {
  /** The step whose checkpoint it begins with; 0: the base. */
  readonly from: number;
  /** The step whose checkpoint it ends with. */
  readonly to: number;
}

export interface ReplayResult {
  readonly from: number;
  readonly to: number;
  readonly sameKind: boolean;
  /** Every number and byte that was compared is equal. */
  readonly identical: boolean;
  /** Of the steps' losses, relative to the run's or to 1. */
  readonly largestLossDifference: number;
  /** What it may be on a machine of another kind. */
  readonly tolerance: number;
  /** Of the trained weights: the norm of the difference by the norm of the run's. */
  readonly weightDifference: number;
  /** Files of the checkpoint that are equal, byte for byte. */
  readonly equalFiles: readonly string[];
  readonly passed: boolean;
  /** What differs, in a sentence each. */
  readonly differences: readonly string[];
}

export interface ReplayOptions {
  readonly model?: string;
  /** Files or folders that rows lie in now; each source is looked for among them by its name. */
  readonly data?: readonly string[];
  /** In place of the bound by precision. */
  readonly tolerance?: number;
  readonly threads?: number;
  readonly tell?: (event: TrainEvent) => void;
}

/** What two devices' rounding makes of a step's loss after some steps, by the precision of products. */
const tolerances: Readonly<Record<string, number>> = { fp32: 1e-4, bf16: 2e-2, fp16: 2e-2 };

/** What of a run can be replayed: from the base to its first checkpoint, and from each to the next. */
export async function intervalsOf(out: string): Promise<Interval[]> {
  const steps = await listCheckpoints(out);
  return steps.map((to, i) => ({ from: steps[i - 1] ?? 0, to }));
}

/** Why nothing of a run can be replayed; undefined where it can. */
export function replayObstacle(record: RecordedRun, data?: readonly string[]): string | undefined {
  const options = movedRows((record.options ?? {}) as Partial<TrainOptions>, data);
  if (options.objective === "grpo")
    return "its rewards are functions of its user, which may say something else each time and are not run here";
  const memory = JSON.stringify([options.data, options.evalData, options.forget]).includes('"memory:');
  if (memory) return "its rows were given as objects: --data F names a file of them";
  return undefined;
}

/** The options of a run again, in another place, and without what only watches it. UserError for what is none. */
export function replayOptions(
  record: RecordedRun,
  out: string,
  { from, total }: { readonly from: number; readonly total: number },
  { model, data, threads }: ReplayOptions,
): TrainOptions {
  const given = record.options;
  if (given === null || typeof given !== "object" || Array.isArray(given))
    throw new UserError("run.json has no options to train with");
  const known = Object.entries(movedRows(given, data)).filter(([key]) =>
    Object.hasOwn(trainDefinition.fields, key),
  );
  const backend = ["cpu", "cuda", "webgpu", "reference"].find((name) => name === record.backend);
  const precision = ["fp32", "bf16", "fp16"].find((name) => name === record.precision);
  const apart = ["log", "logProject", "logRun", "trackioUrl", "mlflowUri", "sample", "maxSteps", "epochs"];
  const { keepBest, patience, averageCheckpoints } = given as Partial<TrainOptions>;
  // Evaluations and checkpoints that decide nothing are not made again.
  if (keepBest === undefined && patience === undefined) apart.push("evalEvery");
  if (averageCheckpoints === undefined) apart.push("saveEvery");
  return resolveInput(
    trainDefinition,
    {
      ...Object.fromEntries(known.filter(([key]) => !apart.includes(key))),
      ...(model !== undefined && { model }),
      ...(backend !== undefined && { backend }),
      ...(precision !== undefined && { precision }),
      ...(threads !== undefined && { threads }),
      ...{ out, resume: from > 0, keep: 1_000_000, saveMinutes: 0, saveEnd: true, timing: true },
      ...{ ui: false, json: false, distributed: "off", shardOptimizer: false, maxSteps: total },
      gradientCheckpointing: record.gradientCheckpointing === true ? "on" : "off",
    } as never,
    "run.json",
  );
}

/** Replays an interval. UserError where its checkpoint, its model or its data are not what they were. */
export async function replay(
  out: string,
  record: RecordedRun,
  { from, to }: Interval,
  options: ReplayOptions = {},
): Promise<ReplayResult> {
  const place = await mkdtemp(join(tmpdir(), "lowrank-verify-"));
  try {
    const copy = join(place, "run");
    if (from > 0) await beginWith(out, copy, from);
    const total = await totalOf(out, record, to);
    const wanted = replayOptions(record, copy, { from, total }, options);
    const steps = new Map<number, StepEvent>();
    let device = "";
    let last = from;
    await runTraining(
      wanted,
      (event) => {
        options.tell?.(event);
        if (event.type === "model") device = event.device;
        if (event.type !== "train") return;
        steps.set(event.step, event);
        last = event.step;
      },
      {
        // Looked at once a step, before the step's own numbers are told.
        get interrupted() {
          return last >= to - 1;
        },
      },
    );
    const kind = `${record.lowrank} ${kindOf(String(record.device))}`;
    const sameKind = kind === `${lowrankVersion()} ${kindOf(device)}`;
    const tolerance = options.tolerance ?? tolerances[String(record.precision)] ?? tolerances.fp32!;
    const recipe = record.chain?.recipe;
    return await compare({ out, copy, from, to, sameKind, tolerance, steps, recipe });
  } finally {
    await rm(place, { recursive: true, force: true });
  }
}

/**
 * Steps of the run as its checkpoint has it: one that was made longer has earlier checkpoints of the shorter run. UserError
 * where that is no number of steps.
 */
async function totalOf(out: string, record: RecordedRun, to: number): Promise<number> {
  const state = await readState(join(out, "checkpoints", `step-${to}`));
  const total = state.identity.totalSteps;
  if (Number.isSafeInteger(total) && (total as number) >= to) return total as number;
  throw new UserError(
    `${out}: checkpoint step-${to} is of a run of ${JSON.stringify(total ?? record.totalSteps)} steps, which cannot be`,
  );
}

/** "avx512bf16, 2 threads, bf16 products" without the threads, which change no bit. */
function kindOf(device: string): string {
  return device.replace(/,? ?\d+ threads?/, "");
}

/** A folder that is resumed from a checkpoint of the run, which stays where it is. */
async function beginWith(out: string, copy: string, from: number): Promise<void> {
  const folder = join(out, "checkpoints", `step-${from}`);
  const damage = await damageOf(folder, from);
  if (damage !== undefined) throw new UserError(damage);
  const state = await readState(folder);
  await mkdir(join(copy, "checkpoints"), { recursive: true });
  // The result may be made of earlier ones.
  for (const step of (await listCheckpoints(out)).filter((each) => each <= from))
    await symlink(
      resolve(out, "checkpoints", `step-${step}`),
      join(copy, "checkpoints", `step-${step}`),
      "junction",
    );
  const file = await open(join(out, "metrics.jsonl"), "r").catch(() => undefined);
  if (!file) return;
  try {
    const { size } = await file.stat();
    const bytes = Buffer.alloc(Math.max(0, Math.min(size, state.metricsBytes)));
    await file.read(bytes, 0, bytes.length, 0);
    const kept = await open(join(copy, "metrics.jsonl"), "w");
    await kept.writeFile(bytes);
    await kept.close();
  } finally {
    await file.close();
  }
}

interface Compared {
  readonly out: string;
  readonly copy: string;
  readonly from: number;
  readonly to: number;
  readonly recipe: string | undefined;
  readonly sameKind: boolean;
  readonly tolerance: number;
  readonly steps: ReadonlyMap<number, StepEvent>;
}

const exactKeys = ["loss", "learningRate", "gradNorm", "targetTokens", "tokens"] as const;

async function compare({
  out,
  copy,
  from,
  to,
  recipe,
  sameKind,
  tolerance,
  steps,
}: Compared): Promise<ReplayResult> {
  const differences: string[] = [];
  let largest = 0;
  const recorded = await stepsIn(join(out, "metrics.jsonl"), from, to);
  for (let step = from + 1; step <= to; step++) {
    const [was, now] = [recorded.get(step), steps.get(step)];
    if (!was || !now) {
      if (!was) differences.push(`metrics.jsonl has no line of step ${step}`);
      else differences.push(`step ${step} was not made`);
      continue;
    }
    largest = Math.max(largest, Math.abs(now.loss - was.loss) / Math.max(1, Math.abs(was.loss)));
    const other = exactKeys.filter((key) => now[key] !== was[key]);
    if (other.length > 0 && differences.length < 5) {
      const told = other.map((key) => `${key} was ${was[key]} and is ${now[key]}`);
      differences.push(`step ${step}: ${told.join(", ")}`);
    }
  }
  const equalFiles: string[] = [];
  const [was, now] = [out, copy].map((each) => join(each, "checkpoints", `step-${to}`)) as [string, string];
  for (const name of ["trainable.safetensors", "optimizer.safetensors", "adapter_model.safetensors"]) {
    if (!(await stat(join(was, name)).catch(() => undefined))) continue;
    if (await sameBytes(join(was, name), join(now, name))) equalFiles.push(name);
    else differences.push(`checkpoints/step-${to}/${name} has other bytes`);
  }
  const weightDifference = await distance(
    join(was, "trainable.safetensors"),
    join(now, "trainable.safetensors"),
  );
  const [before, after] = [await readState(was), await readState(now)];
  if (stateOf(before) !== stateOf(after)) differences.push(`checkpoints/step-${to}/state.json differs`);
  for (const hash of [recipeHash(before.identity), ...(recipe === undefined ? [] : [recipe])])
    if (hash !== recipeHash(after.identity)) differences.push("the recipe is another than what was recorded");
  const identical = differences.length === 0;
  const missing = differences.some((text) => /has no line|was not made|recipe/.test(text));
  return {
    ...{ from, to, sameKind, identical, largestLossDifference: largest, tolerance },
    ...{ weightDifference, equalFiles },
    passed: identical || (!sameKind && largest <= tolerance && !missing),
    differences,
  };
}

/** What of a state is the run's, and not the clock's or the way's that its numbers were written. */
function stateOf({ step, passes, cursor, tokens }: RunState): string {
  return JSON.stringify({ step, passes, cursor, tokens });
}

async function stepsIn(path: string, from: number, to: number): Promise<Map<number, StepEvent>> {
  const found = new Map<number, StepEvent>();
  const text = await readFile(path, "utf8").catch(() => "");
  for (const line of text.split("\n")) {
    try {
      const event = JSON.parse(line) as StepEvent;
      if (event?.type === "train" && event.step > from && event.step <= to) found.set(event.step, event);
    } catch {
      // No line of ours.
    }
  }
  return found;
}

const pieceBytes = 4 * 2 ** 20;

async function sameBytes(one: string, other: string): Promise<boolean> {
  const files = await Promise.all([open(one, "r"), open(other, "r")]);
  try {
    const [a, b] = [new Uint8Array(pieceBytes), new Uint8Array(pieceBytes)];
    for (let at = 0; ; ) {
      const [read, readOther] = await Promise.all([
        files[0]!.read(a, 0, pieceBytes, at),
        files[1]!.read(b, 0, pieceBytes, at),
      ]);
      if (read.bytesRead !== readOther.bytesRead) return false;
      if (read.bytesRead === 0) return true;
      if (Buffer.compare(a.subarray(0, read.bytesRead), b.subarray(0, read.bytesRead)) !== 0) return false;
      at += read.bytesRead;
    }
  } finally {
    for (const file of files) await file.close();
  }
}

/** The norm of the difference of two files' f32 tensors by the norm of the first's. */
async function distance(was: string, now: string): Promise<number> {
  const [one, other] = [
    await openSafetensors(await openFile(was)),
    await openSafetensors(await openFile(now)),
  ];
  try {
    let [difference, norm] = [0, 0];
    for (const name of one.tensors.keys()) {
      if (!other.tensors.has(name)) return Number.POSITIVE_INFINITY;
      const [mine, theirs] = [one.readChunks(name, pieceBytes), other.readChunks(name, pieceBytes)];
      for await (const piece of mine) {
        const { value } = await theirs.next();
        const [a, b] = [decodeToF32(piece, "f32"), value ? decodeToF32(value, "f32") : new Float32Array()];
        for (let i = 0; i < a.length; i++) {
          difference += (a[i]! - (b[i] ?? Number.NaN)) ** 2;
          norm += a[i]! ** 2;
        }
      }
    }
    return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
  } finally {
    await one.close();
    await other.close();
  }
}
