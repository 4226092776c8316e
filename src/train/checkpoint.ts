// Checkpoints: everything a run needs to go on bit-identically. A checkpoint is a folder checkpoints/step-N that
// appears whole or not at all: written under another name, synced, then renamed.
//
//   trainable.safetensors   every trained parameter in f32, by name
//   optimizer.safetensors   the optimizer's flat state
//   state.json              step, data cursor, counters, what the run was made of
//   adapter_*               for adapters, so that a checkpoint can be used as one

import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Backend, Tensor } from "../backend/backend.ts";
import type { CursorState } from "../data/batches.ts";
import { writeFileAtomic } from "../formats/atomic-file.ts";
import { openFile } from "../formats/disk.ts";
import { openSafetensors, toSafetensorsDType } from "../formats/safetensors.ts";
import { writeSafetensors } from "../formats/safetensors-writer.ts";
import type { FlatParameters } from "../nn/parameters.ts";
import type { Optimizer, StateTensor } from "../optim/optimizer.ts";
import type { ByteStore } from "../optim/paging.ts";
import { tensorBytes } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";

export interface RunState {
  /** Version of this layout. */
  readonly version: 1;
  /** Steps done. */
  readonly step: number;
  /** Micro-batches done. */
  readonly passes: number;
  readonly cursor: CursorState;
  readonly tokens: number;
  readonly elapsedMs: number;
  /** Length of metrics.jsonl at this point. */
  readonly metricsBytes: number;
  readonly firstLoss?: number;
  readonly lastLoss?: number;
  readonly evalLoss?: number;
  /** Everything that decides the course of training; a checkpoint of another run differs here. */
  readonly identity: Readonly<Record<string, unknown>>;
}

const folderPattern = /^step-(\d+)$/;

/** Saves a checkpoint and removes the oldest beyond `keep`. Returns its path. */
export async function saveCheckpoint(
  out: string,
  backend: Backend,
  parameters: FlatParameters,
  optimizer: Optimizer,
  state: RunState,
  keep: number,
  extra?: (folder: string) => Promise<void>,
): Promise<string> {
  const root = join(out, "checkpoints");
  const target = join(root, `step-${state.step}`);
  const temporary = join(root, `.step-${state.step}.tmp`);
  try {
    await mkdir(root, { recursive: true });
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary);
    await writeSafetensors(
      join(temporary, "trainable.safetensors"),
      parameters.entries.map(({ name, tensor }) => ({ name, ...fileTensor(backend, tensor) })),
    );
    await writeSafetensors(
      join(temporary, "optimizer.safetensors"),
      optimizer.state().map(({ name, tensor, store }) => ({ name, ...fileTensor(store, tensor) })),
    );
    await extra?.(temporary);
    await writeFileAtomic(join(temporary, "state.json"), `${JSON.stringify(state, null, 1)}\n`);
    await rm(target, { recursive: true, force: true });
    await rename(temporary, target);
    await syncFolder(root);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
    throw saveProblem(error, target);
  }
  for (const step of (await listCheckpoints(out)).slice(0, -keep)) {
    await rm(join(root, `step-${step}`), { recursive: true, force: true });
  }
  return target;
}

/** Bytes of a tensor that are on the host at a time. */
const pieceBytes = 64 * 2 ** 20;

function fileTensor(store: ByteStore, tensor: Tensor) {
  const sizeBytes = tensorBytes(tensor.shape, tensor.dtype);
  return {
    dtype: toSafetensorsDType(tensor.dtype),
    shape: tensor.shape,
    async *data() {
      for (let begin = 0; begin < sizeBytes; begin += pieceBytes) {
        const length = Math.min(pieceBytes, sizeBytes - begin);
        yield await store.read(tensor.buffer, tensor.byteOffset + begin, length);
      }
    },
  };
}

function saveProblem(error: unknown, target: string): unknown {
  const code = (error as NodeJS.ErrnoException)?.code;
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new UserError(
      `${target}: the disk is full; earlier checkpoints are untouched. Free some space and continue with --resume`,
    );
  }
  if (code === "EACCES" || code === "EPERM" || code === "EROFS") {
    return new UserError(`${target}: no permission to write here; earlier checkpoints are untouched`);
  }
  return error;
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
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
    throw new UserError(`${folder}: state.json is missing; this is not a checkpoint of lowrank`);
  });
  let state: RunState;
  try {
    state = JSON.parse(text) as RunState;
  } catch {
    throw new UserError(
      `${folder}: state.json is damaged; remove this checkpoint and resume from an earlier one`,
    );
  }
  if (
    state.version !== 1 ||
    !Number.isInteger(state.step) ||
    typeof state.identity !== "object" ||
    !state.cursor
  ) {
    throw new UserError(`${folder}: state.json is not one that this version of lowrank writes`);
  }
  return state;
}

/** Puts a checkpoint's numbers back on the device. */
export async function restoreCheckpoint(
  folder: string,
  backend: Backend,
  parameters: FlatParameters,
  optimizer: Optimizer,
): Promise<void> {
  const trained = parameters.entries.map((entry) => ({ ...entry, store: backend }));
  await restoreFile(join(folder, "trainable.safetensors"), trained);
  await restoreFile(join(folder, "optimizer.safetensors"), optimizer.state());
}

async function restoreFile(path: string, targets: readonly StateTensor[]): Promise<void> {
  const file = await openSafetensors(await openFile(path));
  try {
    for (const { name, tensor, store } of targets) {
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
    }
  } finally {
    await file.close();
  }
}
