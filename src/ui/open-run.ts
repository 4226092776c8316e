// A run's model before and after training, opened for a look: the base, and the same with what the run has saved so far, in
// the arithmetic that it trains in. Refused where this machine is short of memory for it. In the analysing process only.

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Backend } from "../backend/backend.ts";
import { openBackend } from "../backend/index.ts";
import { resolveInput } from "../config/resolve.ts";
import { type TrainOptions, trainDefinition } from "../config/train-options.ts";
import { givenValues } from "../config/written-options.ts";
import { locateModel } from "../formats/locate-model.ts";
import { openModelFolder } from "../formats/model-folder.ts";
import { machineMemory } from "../memory/machine-memory.ts";
import { type OpenedModel, openModel } from "../models/open-model.ts";
import { quantizeOnArrival } from "../models/quantized-weights.ts";
import { RequestError } from "../serve/request-error.ts";
import { listCheckpoints } from "../train/checkpoint.ts";
import type { UserError } from "../util/errors.ts";

/** A run as the server knows it. */
export interface RunJob {
  readonly folder: string;
  /** Of its record. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Whether its result is there. */
  readonly done: boolean;
  /** Its last step. */
  readonly step: number;
}

export interface LookedAtRun {
  readonly options: TrainOptions;
  /** Whose text the rows were made with. */
  readonly model: OpenedModel;
  /** The step whose weights are "after"; absent where nothing is saved. */
  readonly step?: number;
  before<T>(look: (model: OpenedModel) => Promise<T>): Promise<T>;
  /** Undefined where nothing is saved. */
  after<T>(look: (model: OpenedModel) => Promise<T>): Promise<T | undefined>;
}

/** Beside weights: Node, the tokenizer, a pass. */
const besideBytes = 400e6;
/** Part of the available memory that a look may take: a run may be at work beside it. */
const usableShare = 0.8;

/** What the run was started with, checked again. */
export function optionsOf({ options, folder }: Pick<RunJob, "options" | "folder">): TrainOptions {
  const { out: _, resume, json, distributed, collectiveTimeout, ...rest } = options;
  if (rest.model === undefined)
    throw new RequestError(
      "the run has no run.json that can be read; one that is starting has it soon",
      null,
      409,
    );
  return resolveInput(trainDefinition, { ...givenValues(trainDefinition, rest), out: folder }, "run.json");
}

/** Where what the run has saved lies: its result, or its newest checkpoint that can be used as an adapter. */
export async function savedPlace(
  { folder, done, step }: Pick<RunJob, "folder" | "done" | "step">,
  full: boolean,
): Promise<{ readonly path: string; readonly step: number } | undefined> {
  const file = full ? "config.json" : "adapter_config.json";
  if (done && existsSync(join(folder, file))) return { path: folder, step };
  if (full) return undefined;
  for (const saved of (await listCheckpoints(folder)).reverse()) {
    const path = join(folder, "checkpoints", `step-${saved}`);
    if (existsSync(join(path, file))) return { path, step: saved };
  }
  return undefined;
}

export async function withRun<T>(job: RunJob, look: (run: LookedAtRun) => Promise<T>): Promise<T> {
  const options = optionsOf(job);
  const full = options.method === "full";
  const saved = await savedPlace(job, full);
  using backend = await openBackend(options.backend, { precision: options.precision, threads: 1 });
  const path = locateModel(options.model);
  await requireMemory(path, backend);
  const quantize = options.method === "qlora" ? quantizeOnArrival(backend, options.quantType) : undefined;
  const adapter = full ? undefined : (saved?.path ?? options.initAdapter);
  const { chatTemplate, eosToken, padToken } = options;
  await using model = await openModel(backend, path, {
    quantize,
    adapter,
    text: { chatTemplate, eosToken, padToken },
  });
  const { adapter: attached } = model;
  return await look({
    options,
    model,
    step: saved?.step,
    before: (work) => (attached ? attached.without(() => work(model)) : work(model)),
    async after(work) {
      if (!saved) return undefined;
      if (!full) return await work(model);
      await requireMemory(saved.path, backend);
      await using tuned = await openModel(backend, saved.path);
      return await work(tuned);
    },
  });
}

/** RequestError (503) where the weights would take what others on this machine need. */
async function requireMemory(path: string, backend: Backend): Promise<void> {
  const folder = await openModelFolder(path);
  let stored = 0;
  try {
    for (const { sizeBytes } of folder.tensors.values()) stored += sizeBytes;
  } finally {
    await folder.close();
  }
  // Weights of 16 bits are held in 32 where products are.
  const needed = stored * (backend.precision === "fp32" ? 2 : 1) + besideBytes;
  requireRoom(needed, machineMemory().availableBytes);
}

/** RequestError (503) where a look takes more than may be taken of what is available. */
export function requireRoom(neededBytes: number, availableBytes: number): void {
  if (neededBytes <= usableShare * availableBytes) return;
  const gb = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;
  throw new RequestError(
    `memory is short: a look at this model takes about ${gb(neededBytes)}, and of the ${gb(availableBytes)} that are available here ${100 * usableShare}% may be taken; look again when other work has ended`,
    null,
    503,
  );
}

/** A reason that the page shows in place of a view. */
export function notShown(why: string): UserError {
  return new RequestError(why, null, 409);
}
