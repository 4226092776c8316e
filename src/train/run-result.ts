// Which weights a run leaves as its result, once its steps are done and its last state is saved: the last step's, those of
// the best step (--keep-best), or the mean of its last checkpoints (--average-checkpoints).
//
// The mean is one of the trained parameters, each number by itself, in f64 over the checkpoints' f32: for full fine-tuning
// the weights (Izmailov et al. 2018, "SWA"), for an adapter its factors. The product of mean factors is not the mean of
// the products (A1 B1 + A2 B2) / 2: it has the adapter's own rank, where that mean would need the sum of all ranks.
//
// Not here: writing the result (save-result.ts), checkpoints (checkpoint.ts).

import { join } from "node:path";
import type { TrainOptions } from "../config/train-options.ts";
import { openFile } from "../formats/disk.ts";
import { openSafetensors } from "../formats/safetensors.ts";
import { decodeToF32, dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";
import { damageOf, listCheckpoints, type RunState, restoreParameters } from "./checkpoint.ts";
import type { BestStep } from "./events.ts";
import type { RunParts } from "./run-parts.ts";

/** Puts the weights of the best step on the device, on rank 0, which writes the result. */
export async function restoreBest(parts: RunParts, best: BestStep, lastStep: number): Promise<void> {
  const { options, backend, trainable, collective } = parts;
  if (best.step === lastStep || collective.rank !== 0) return;
  const folder = await soundCheckpoint(options.out, best.step, "the best step's");
  await restoreParameters(folder, backend, trainable.parameters);
}

type AveragingOptions = Pick<TrainOptions, "averageCheckpoints" | "saveEvery">;

/** The steps whose checkpoints are averaged: the last one, and of those that were asked for before it the newest. */
export function averagedSteps(options: AveragingOptions, lastStep: number): number[] {
  const { averageCheckpoints: count } = options;
  return count === undefined ? [] : [...askedSteps(options, lastStep - 1, count - 1), lastStep];
}

/** The steps whose checkpoints the result may be made of, should the run go on. */
export function neededSteps(options: AveragingOptions, { step, watched }: RunState): number[] {
  const { averageCheckpoints: count } = options;
  const averaged = count === undefined ? [] : askedSteps(options, step, count);
  return watched?.best ? [...averaged, watched.best.step] : averaged;
}

/** The newest `count` steps of --save-every up to `last`, ascending. */
function askedSteps({ saveEvery }: AveragingOptions, last: number, count: number): number[] {
  const steps: number[] = [];
  if (saveEvery === undefined) return steps;
  for (let step = last - (last % saveEvery); step > 0 && steps.length < count; step -= saveEvery)
    steps.unshift(step);
  return steps;
}

/** Puts the mean of these steps' parameters on the device, on rank 0; the last of them is there already. */
export async function averageSteps(parts: RunParts, steps: readonly number[]): Promise<void> {
  const { options, backend, trainable, collective } = parts;
  if (steps.length < 2 || collective.rank !== 0) return;
  const { parameters } = trainable;
  const folders: string[] = [];
  for (const step of steps.slice(0, -1))
    folders.push(await soundCheckpoint(options.out, step, "one that is averaged,"));
  const files = await Promise.all(
    folders.map(async (folder) => openSafetensors(await openFile(join(folder, "trainable.safetensors")))),
  );
  try {
    for (const entry of parameters.entries) {
      const total = elementCount(entry.tensor.shape);
      const readers = files.map((file, i) => {
        const stored = file.tensors.get(entry.name);
        if (stored && elementCount(stored.shape) === total) return file.readChunks(entry.name, pieceBytes);
        throw new UserError(`${folders[i]}: tensor "${entry.name}" is missing or has another shape`);
      });
      for (let from = 0; from < total; from += pieceBytes / 4) {
        const count = Math.min(pieceBytes / 4, total - from);
        const sum = Float64Array.from(await parameters.read(entry, "tensor", from, count));
        for (const reader of readers) {
          const { value: piece } = await reader.next();
          for (const [i, value] of decodeToF32(piece!, "f32").entries()) sum[i]! += value;
        }
        const { buffer, byteOffset, dtype } = entry.tensor;
        const mean = sum.map((value) => value / steps.length);
        backend.write(buffer, encodeFrom(mean, dtype), byteOffset + from * dtypeBytes[dtype]);
      }
    }
  } finally {
    for (const file of files) await file.close();
  }
}

/** Bytes of a file that are on the host at a time. */
const pieceBytes = 16 * 2 ** 20;

async function soundCheckpoint(out: string, step: number, what: string): Promise<string> {
  const folder = join(out, "checkpoints", `step-${step}`);
  const there = (await listCheckpoints(out)).includes(step);
  const damage = there ? await damageOf(folder, step) : `${folder} is missing`;
  if (damage === undefined) return folder;
  throw new UserError(
    `${damage}. This checkpoint is ${what} and the result is made of it; put it back from a copy and resume with --resume`,
  );
}
