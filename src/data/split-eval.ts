// Sets a fraction of the samples aside for evaluation (--eval-fraction). Samples with the same tokens stay on the
// same side, so that no sample is both learnt and measured.

import { UserError } from "../util/errors.ts";
import { Random } from "../util/rng.ts";
import type { Sample } from "./render.ts";

/** A stream of the seed of its own; batches.ts uses others. */
const SPLIT_STREAM = 0x5af10000;

/** Both sides keep the order of the data. UserError when either would be empty. */
export function splitEval(
  samples: readonly Sample[],
  fraction: number,
  seed: number,
): { train: Sample[]; evaluation: Sample[] } {
  if (!(fraction > 0 && fraction < 1)) {
    throw new UserError(`--eval-fraction ${fraction}: expected a number between 0 and 1.`);
  }
  const groups = new Map<string, number[]>();
  for (const [i, sample] of samples.entries()) {
    const key = sample.ids.join(" ");
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [i]);
    else group.push(i);
  }
  const wanted = Math.max(1, Math.round(samples.length * fraction));
  const chosen = new Set<number>();
  for (const group of new Random(seed, SPLIT_STREAM).shuffle([...groups.values()])) {
    if (chosen.size >= wanted) break;
    for (const i of group) chosen.add(i);
  }
  const train = samples.filter((_, i) => !chosen.has(i));
  if (train.length === 0) {
    throw new UserError(
      `--eval-fraction ${fraction}: ${groups.size} different samples are too few to split; pass --eval-data instead.`,
    );
  }
  return { train, evaluation: samples.filter((_, i) => chosen.has(i)) };
}
