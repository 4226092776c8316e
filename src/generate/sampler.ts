// Chooses the next token from one row of logits: greedily, or by temperature, top-k, top-p and min-p with a
// repetition penalty, in the order transformers applies them. Seeded, so a request repeats exactly.

import { Random } from "../util/rng.ts";

export interface Sampling {
  /** 0: always the likeliest token. */
  readonly temperature: number;
  /** Keep the likeliest tokens that hold this much probability; 1 keeps all. */
  readonly topP?: number;
  /** Keep this many of the likeliest tokens; 0 keeps all. */
  readonly topK?: number;
  /** Keep tokens at least this likely relative to the likeliest; 0 keeps all. */
  readonly minP?: number;
  /** Divides positive and multiplies negative logits of tokens seen before; 1 does nothing. Keskar et al. 2019. */
  readonly repetitionPenalty?: number;
  readonly seed: number;
}

export const greedy: Sampling = { temperature: 0, seed: 0 };

export class Sampler {
  private readonly random: Random;
  constructor(private readonly sampling: Sampling) {
    this.random = new Random(sampling.seed, 0x5a3b);
  }

  /** The next token; `seen` are the sequence's tokens so far. `logits` may be changed. */
  next(logits: Float32Array, seen: readonly number[]): number {
    const { temperature, repetitionPenalty = 1 } = this.sampling;
    if (repetitionPenalty !== 1) {
      for (const id of new Set(seen)) {
        if (id >= logits.length) continue;
        logits[id] = logits[id]! > 0 ? logits[id]! / repetitionPenalty : logits[id]! * repetitionPenalty;
      }
    }
    return temperature === 0 ? likeliest(logits) : this.draw(logits, temperature);
  }

  private draw(logits: Float32Array, temperature: number): number {
    const { topP = 1, topK = 0, minP = 0 } = this.sampling;
    const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
    const kept = topK > 0 ? order.slice(0, topK) : order;
    const top = logits[kept[0]!]!;
    const weights = kept.map((id) => Math.exp((logits[id]! - top) / temperature));
    const total = weights.reduce((sum, w) => sum + w, 0);
    let end = kept.length;
    if (topP < 1) {
      let mass = 0;
      for (end = 0; end < kept.length && (end === 0 || mass < topP * total); end++) mass += weights[end]!;
    }
    if (minP > 0) while (end > 1 && weights[end - 1]! < minP) end--;
    let left = this.random.nextFloat() * weights.slice(0, end).reduce((sum, w) => sum + w, 0);
    for (let i = 0; i < end; i++) {
      left -= weights[i]!;
      if (left < 0) return kept[i]!;
    }
    return kept[end - 1]!;
  }
}

/** Index of the largest value; the first of equals. */
export function likeliest(logits: Float32Array): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
  return best;
}
