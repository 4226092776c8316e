// Checkpoints: everything a run needs to go on bit-identically. A checkpoint is a folder checkpoints/step-N that
// appears whole or not at all: written under another name, synced, then renamed.
//
//   trainable.safetensors   every trained parameter in f32, by name
//   optimizer.safetensors   the optimizer's flat state
//   state.json              step, data cursor, counters, what the run was made of
//   adapter_*               for adapters, so that a checkpoint can be used as one
//   SHA256SUMS              the hash of each of these files, as `sha256sum -c` reads it; checked on resuming
//
// A checkpoint saved by the clock is no one that was asked for: of these only the newest is worth its room.

import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Backend, Tensor } from "../backend/backend.ts";
import type { CursorState } from "../data/batches.ts";
import { syncFolder, writeFileAtomic } from "../formats/atomic-file.ts";
import { openFile } from "../formats/disk.ts";
import { hashFile } from "../formats/file-hashes.ts";
import { makeFolder } from "../formats/make-folder.ts";
import { openSafetensors, toSafetensorsDType } from "../formats/safetensors.ts";
import { writeSafetensors } from "../formats/safetensors-writer.ts";
import type { FlatParameters } from "../nn/parameters.ts";
import type { Optimizer, StateTensor } from "../optim/optimizer.ts";
import type { ByteStore } from "../optim/paging.ts";
import type { RoundState } from "../rollouts/rollouts.ts";
import { tensorBytes } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";
import type { Watched } from "./best-step.ts";
import type { ForgettingState } from "./forgetting.ts";

export interface RunState {
  /** Version of this layout: 1 had no hashes. */
  readonly version: 1 | 2;
  /** Steps done. */
  readonly step: number;
  /** Micro-batches done. */
  readonly passes: number;
  readonly cursor: CursorState;
  readonly tokens: number;
  readonly elapsedMs: number;
  /** Length of metrics.jsonl at this point. */
  readonly metricsBytes: number;
  /** The same without the evaluation that only the run's end asked for: what a longer run would have. */
  readonly metricsBytesBeforeEnd?: number;
  /** Saved because time had passed, not because this step was asked for. */
  readonly byClock?: boolean;
  readonly firstLoss?: number;
  readonly lastLoss?: number;
  readonly evalLoss?: number;
  /** With --keep-best: the best step so far. */
  readonly watched?: Watched;
  /** The same without the evaluation that only the run's end asked for. */
  readonly watchedBeforeEnd?: Watched;
  readonly forgetting?: ForgettingState;
  /** Completions that the next step goes on learning from. */
  readonly round?: RoundState;
  /** Everything that decides the course of training; a checkpoint of another run differs here. */
  readonly identity: Readonly<Record<string, unknown>>;
}

const folderPattern = /^step-(\d+)$/;

/** Not damaged: nothing may be set aside for it. */
class NewerCheckpoint extends UserError {}

export const SUMS_FILE = "SHA256SUMS";
const sumsCapBytes = 2 ** 20;
const leftoverPattern = /^\.step-.+\.tmp$/;

/**
 * Saves a checkpoint and removes those beyond `keep`: first what the clock had saved, then the oldest, and never those
 * of the steps `needed`, which are not counted. Returns its path.
 */
export async function saveCheckpoint(
  out: string,
  backend: Backend,
  parameters: FlatParameters,
  optimizer: Pick<Optimizer, "state">,
  state: RunState,
  { keep, needed = [] }: { readonly keep: number; readonly needed?: readonly number[] },
  extra?: (folder: string) => Promise<void>,
): Promise<string> {
  const root = join(out, "checkpoints");
  const target = join(root, `step-${state.step}`);
  const temporary = join(root, `.step-${state.step}.${process.pid}.tmp`);
  try {
    await makeFolder(root);
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary);
    await writeSafetensors(
      join(temporary, "trainable.safetensors"),
      parameters.entries.map(({ name, tensor }) => ({ name, ...fileTensor(backend, tensor) })),
    );
    await writeSafetensors(
      join(temporary, "optimizer.safetensors"),
      optimizer.state().map(({ name, tensor, store, collect }) => ({
        name,
        ...fileTensor(store, tensor, collect),
      })),
    );
    await extra?.(temporary);
    await writeFileAtomic(join(temporary, "state.json"), `${JSON.stringify(state, null, 1)}\n`);
    await writeFileAtomic(join(temporary, SUMS_FILE), await sumsOf(temporary));
    await rm(target, { recursive: true, force: true });
    await rename(temporary, target);
    await syncFolder(root);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
    throw saveProblem(error, target);
  }
  await prune(out, keep, needed);
  return target;
}

async function prune(out: string, keep: number, needed: readonly number[]): Promise<void> {
  const steps = (await listCheckpoints(out)).filter((step) => !needed.includes(step));
  const spare = steps.length - keep;
  if (spare <= 0) return;
  const folderOf = (step: number) => join(out, "checkpoints", `step-${step}`);
  const older: { step: number; byClock: boolean }[] = [];
  for (const step of steps.slice(0, -1)) {
    const state = await readState(folderOf(step)).catch(() => undefined);
    older.push({ step, byClock: state?.byClock === true });
  }
  const order = [...older.filter(({ byClock }) => byClock), ...older.filter(({ byClock }) => !byClock)];
  for (const { step } of order.slice(0, spare)) await rm(folderOf(step), { recursive: true, force: true });
}

/** Removes what killed runs left of checkpoints that were being written. Only for whoever holds the folder's lock. */
export async function removeCheckpointLeftovers(out: string): Promise<void> {
  const root = join(out, "checkpoints");
  for (const name of await readdir(root).catch(() => [] as string[]))
    if (leftoverPattern.test(name)) await rm(join(root, name), { recursive: true, force: true });
}

async function sumsOf(folder: string): Promise<string> {
  const lines: string[] = [];
  for (const name of (await readdir(folder)).sort())
    lines.push(`${await hashOf(join(folder, name))}  ${name}\n`);
  return lines.join("");
}

async function hashOf(path: string): Promise<string> {
  return (await hashFile(path)).sha256;
}

/** What is wrong with a checkpoint, in a sentence that names the file; undefined when it is as it was saved. */
export async function damageOf(folder: string, step: number): Promise<string | undefined> {
  let state: RunState;
  try {
    state = await readState(folder);
  } catch (error) {
    if (error instanceof UserError && !(error instanceof NewerCheckpoint)) return error.message;
    throw error;
  }
  if (state.step !== step)
    return `${folder}: state.json speaks of step ${state.step}; this checkpoint is damaged`;
  // Checkpoints of earlier versions have no hashes; their files are judged as they are read.
  if (state.version === 1) return undefined;
  const sums = await readSums(join(folder, SUMS_FILE));
  if (sums === undefined)
    return `${folder}: ${SUMS_FILE} is missing or damaged; this checkpoint cannot be trusted`;
  for (const name of neededFiles)
    if (!sums.has(name)) return `${folder}: ${SUMS_FILE} does not name ${name}; this checkpoint is damaged`;
  for (const [name, sum] of sums) {
    const found = await hashOf(join(folder, name)).catch((error: NodeJS.ErrnoException) => `(${error.code})`);
    if (found === sum) continue;
    if (found === "(ENOENT)") return `${folder}: ${name} is missing; this checkpoint is damaged`;
    const how = found.startsWith("(")
      ? `cannot be read ${found}`
      : "is not as it was saved (its SHA-256 differs)";
    return `${folder}: ${name} ${how}; this checkpoint is damaged`;
  }
  return undefined;
}

const neededFiles = ["optimizer.safetensors", "state.json", "trainable.safetensors"];

async function readSums(path: string): Promise<Map<string, string> | undefined> {
  try {
    const text = await readFile(path, "utf8");
    if (text.length > sumsCapBytes) return undefined;
    const sums = new Map<string, string>();
    for (const line of text.trimEnd().split("\n")) {
      const [, sum, name] = /^([0-9a-f]{64}) {2}([\w.-]+)$/.exec(line) ?? [];
      if (sum === undefined || name === undefined) return undefined;
      sums.set(name, sum);
    }
    return sums;
  } catch {
    return undefined;
  }
}

/** Bytes of a tensor that are on the host at a time. */
const pieceBytes = 64 * 2 ** 20;

function fileTensor(store: ByteStore, tensor: Tensor, collect?: () => Promise<void>) {
  const sizeBytes = tensorBytes(tensor.shape, tensor.dtype);
  return {
    dtype: toSafetensorsDType(tensor.dtype),
    shape: tensor.shape,
    async *data() {
      await collect?.();
      for (let begin = 0; begin < sizeBytes; begin += pieceBytes) {
        const length = Math.min(pieceBytes, sizeBytes - begin);
        yield await store.read(tensor.buffer, tensor.byteOffset + begin, length);
      }
    },
  };
}

/** A checkpoint that the place does not take. */
export class SaveProblem extends UserError {
  constructor(
    target: string,
    /** A few words: "the disk is full". */
    readonly reason: string,
    remedy: string,
  ) {
    super(`${target}: ${reason}; earlier checkpoints are untouched${remedy}`);
  }
}

function saveProblem(error: unknown, target: string): unknown {
  const { code, cause } = error as NodeJS.ErrnoException & { cause?: NodeJS.ErrnoException };
  switch (code ?? cause?.code) {
    case "ENOSPC":
      return new SaveProblem(target, "the disk is full", ". Free some space and continue with --resume");
    case "EDQUOT":
      return new SaveProblem(
        target,
        "the disk quota is used up",
        ". Free some space and continue with --resume",
      );
    case "EACCES":
    case "EPERM":
      return new SaveProblem(target, "no permission to write here", "");
    case "EROFS":
      return new SaveProblem(target, "the file system is read-only", "");
  }
  return error;
}

/** Steps of the checkpoints in a run folder, ascending. */
export async function listCheckpoints(out: string): Promise<number[]> {
  const names = await readdir(join(out, "checkpoints")).catch(() => [] as string[]);
  return names
    .map((name) => Number(folderPattern.exec(name)?.[1] ?? Number.NaN))
    .filter(Number.isInteger)
    .sort((a, b) => a - b);
}

export async function readState(folder: string): Promise<RunState> {
  const text = await readFile(join(folder, "state.json"), "utf8").catch(() => {
    throw new UserError(`${folder}: state.json is missing or cannot be read`);
  });
  let state: RunState;
  try {
    state = JSON.parse(text) as RunState;
  } catch {
    throw new UserError(`${folder}: state.json is damaged`);
  }
  if (typeof state?.version === "number" && state.version > 2)
    throw new NewerCheckpoint(
      `${folder}: written by a later version of lowrank; resume with that one, or start a new run in another --out`,
    );
  if (
    (state?.version !== 1 && state?.version !== 2) ||
    !Number.isInteger(state.step) ||
    typeof state.identity !== "object" ||
    state.identity === null ||
    !state.cursor
  ) {
    throw new UserError(`${folder}: state.json is not one that this version of lowrank writes`);
  }
  return state;
}

/** Puts a checkpoint's trained parameters alone on the device. */
export async function restoreParameters(
  folder: string,
  backend: Backend,
  parameters: FlatParameters,
): Promise<void> {
  const trained = parameters.entries.map((entry) => ({ ...entry, store: backend }));
  await restoreFile(join(folder, "trainable.safetensors"), trained);
}

/** Puts a checkpoint's numbers back on the device. */
export async function restoreCheckpoint(
  folder: string,
  backend: Backend,
  parameters: FlatParameters,
  optimizer: Optimizer,
): Promise<void> {
  await restoreParameters(folder, backend, parameters);
  await restoreFile(join(folder, "optimizer.safetensors"), optimizer.state());
}

async function restoreFile(path: string, targets: readonly StateTensor[]): Promise<void> {
  const file = await openSafetensors(await openFile(path));
  try {
    for (const { name, tensor, store, spread } of targets) {
      const entry = file.tensors.get(name);
      if (
        !entry ||
        entry.sizeBytes !== tensorBytes(tensor.shape, tensor.dtype) ||
        entry.dtype !== toSafetensorsDType(tensor.dtype)
      ) {
        throw new UserError(
          `${path}: tensor "${name}" is missing or has another shape; the checkpoint belongs to another run`,
        );
      }
      let offset = tensor.byteOffset;
      for await (const chunk of file.readChunks(name, pieceBytes)) {
        store.write(tensor.buffer, chunk, offset);
        offset += chunk.byteLength;
      }
      await spread?.();
    }
  } finally {
    await file.close();
  }
}
