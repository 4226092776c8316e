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

  /** It takes the likeliest token, whatever came before. */
  get greedy(): boolean {
    const { temperature, repetitionPenalty = 1 } = this.sampling;
    return temperature === 0 && repetitionPenalty === 1;
  }

  /** The next token; `seen` gives the sequence's tokens so far. `logits` may be changed. */
  next(logits: Float32Array, seen: () => readonly number[]): number {
    const { temperature, repetitionPenalty = 1 } = this.sampling;
    if (repetitionPenalty !== 1) {
      for (const id of new Set(seen())) {
        if (id >= logits.length) continue;
        logits[id] = logits[id]! > 0 ? logits[id]! / repetitionPenalty : logits[id]! * repetitionPenalty;
      }
    }
    return temperature === 0 ? likeliest(logits) : this.draw(logits, temperature);
  }

  private draw(logits: Float32Array, temperature: number): number {
    const { topP = 1, topK = 0, minP = 0 } = this.sampling;
    const top = logits[likeliest(logits)]!;
    const weights = Float64Array.from(logits, (logit) => Math.exp((logit - top) / temperature));
    let total = sumOf(weights);
    const ranked = topK > 0 || topP < 1;
    // A vocabulary is long to sort: tokens that no cut can leave in are passed over first. What lies below the bound
    // for top-p holds less than 1 - p all together.
    let bound = 0;
    if (topK > 0) bound = Float64Array.from(weights).sort()[Math.max(0, weights.length - topK)]!;
    else bound = Math.max(minP, topP < 1 ? ((1 - topP) * total) / weights.length : 0);
    let kept: number[] = [];
    for (let id = 0; id < weights.length; id++) if (weights[id]! >= bound) kept.push(id);
    if (ranked) kept.sort((a, b) => weights[b]! - weights[a]! || a - b);
    if (topK > 0) {
      kept = kept.slice(0, topK);
      total = sumOf(kept.map((id) => weights[id]!));
    }
    if (topP < 1) {
      let end = 0;
      for (let mass = 0; end < kept.length && (end === 0 || mass < topP * total); end++)
        mass += weights[kept[end]!]!;
      kept = kept.slice(0, end);
    }
    if (minP > 0) kept = kept.filter((id) => weights[id]! >= minP);
    let left = this.random.nextFloat() * sumOf(kept.map((id) => weights[id]!));
    for (const id of kept) {
      left -= weights[id]!;
      if (left < 0) return id;
    }
    return kept.at(-1)!;
  }
}

function sumOf(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum;
}

/** Index of the largest value; the first of equals. */
export function likeliest(logits: Float32Array): number {
  let best = 0;
  let most = logits[0]!;
  for (let i = 1; i < logits.length; i++) {
    if (logits[i]! > most) {
      best = i;
      most = logits[i]!;
    }
  }
  return best;
}
