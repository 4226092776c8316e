// Sets a fraction of the samples aside for evaluation (--eval-fraction). Samples with the same tokens stay on the
// same side, so that no sample is both learnt and measured.

import { UserError } from "../util/errors.ts";
import { Random } from "../util/rng.ts";
import { DistinctHashes, sampleHash } from "./distinct-samples.ts";
import type { Samples } from "./samples.ts";

/** A stream of the seed of its own; batches.ts uses others. */
const SPLIT_STREAM = 0x5af10000;

/** The indices of both sides, in the order of the data. UserError when either would be empty. */
export function splitEval(
  samples: Samples,
  fraction: number,
  seed: number,
): { readonly train: Uint32Array; readonly evaluation: Uint32Array } {
  if (!(fraction > 0 && fraction < 1)) {
    throw new UserError(`--eval-fraction ${fraction}: expected a number between 0 and 1.`);
  }
  const distinct = new DistinctHashes();
  const groupOf = new Uint32Array(samples.length);
  let index = 0;
  for (const sample of samples) groupOf[index++] = distinct.add(sampleHash(sample, false));
  const sizes = new Uint32Array(distinct.size);
  for (const group of groupOf) sizes[group]!++;
  const wanted = Math.max(1, Math.round(samples.length * fraction));
  const isChosen = new Uint8Array(distinct.size);
  let chosen = 0;
  const order = new Random(seed, SPLIT_STREAM).shuffle(Uint32Array.from(sizes, (_, group) => group));
  for (const group of order) {
    if (chosen >= wanted) break;
    isChosen[group] = 1;
    chosen += sizes[group]!;
  }
  if (chosen === samples.length) {
    throw new UserError(
      `--eval-fraction ${fraction}: ${distinct.size} different samples are too few to split; pass --eval-data instead.`,
    );
  }
  const train = new Uint32Array(samples.length - chosen);
  const evaluation = new Uint32Array(chosen);
  let [trained, evaluated] = [0, 0];
  for (const [sample, group] of groupOf.entries()) {
    if (isChosen[group]) evaluation[evaluated++] = sample;
    else train[trained++] = sample;
  }
  return { train, evaluation };
}
