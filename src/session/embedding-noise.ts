// NEFTune: uniform noise on the embeddings of a training pass (Jain et al. 2023). Its size is transformers' and TRL's,
// alpha / sqrt(L d), with d the width and L the length of the token's own sequence: a padded batch of theirs counts its
// longest row for all, and here padding never exists, so both are the same where rows are of one length. Each value is a
// function of (seed, micro-batch, token, channel) by the counter-based generator, made on the host: one for all backends,
// and a resumed run's is the same. Evaluation and generation have none. Not here: where it is added (models/decoder.ts).

import type { Batch } from "../data/assemble.ts";
import { philox } from "../util/rng.ts";

/** Words of the generator's counter that set this noise apart from dropout (0) and sequential draws (1). */
const noiseCounter = 2;

export interface NoiseOptions {
  readonly alpha: number;
  readonly seed: number;
  /** The micro-batch's number over the whole run. */
  readonly pass: number;
}

/** Noise for each token of a micro-batch and each channel: [T, width]. */
export function embeddingNoise(
  { ids, segments }: Pick<Batch, "ids" | "segments">,
  width: number,
  { alpha, seed, pass }: NoiseOptions,
): Float32Array {
  const noise = new Float32Array(ids.length * width);
  const block = new Uint32Array(4);
  const [keyLow, keyHigh] = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0];
  for (let s = 0; s < segments.length; s += 4) {
    const [start, length] = [segments[s]!, segments[s + 1]!];
    const size = alpha / Math.sqrt(length * width);
    const end = (start + length) * width;
    for (let i = start * width; i < end; i++) {
      if (i === start * width || i % 4 === 0) {
        philox(Math.floor(i / 4), 0, pass >>> 0, noiseCounter, keyLow, keyHigh, block);
      }
      // The middle of each of 2^32 equal parts of (-1, 1).
      noise[i] = size * ((block[i % 4]! + 0.5) / 2 ** 31 - 1);
    }
  }
  return noise;
}
