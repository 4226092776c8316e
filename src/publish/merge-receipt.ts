// The receipt of a merge: how far the merged model's predictions are from those of the model that was trained, on
// sample text. KL divergence in nats, mean and worst over tokens, and perplexity of both. Computing the weights is
// merged-source.ts's affair, writing and refusing merge-folder.ts's.

import type { Decoder } from "../models/decoder.ts";
import { tokenLogits } from "../models/token-logits.ts";
import { invariant } from "../util/errors.ts";

export interface Comparison {
  /** What the merged model is held against. */
  readonly reference: string;
  readonly tokens: number;
  /** KL(reference || merged), nats: mean over tokens and the largest of one token. */
  readonly meanKl: number;
  readonly maxKl: number;
  /** Tokens whose likeliest successor is the same, 0 to 1. */
  readonly sameTopToken: number;
  readonly perplexityReference: number;
  readonly perplexityMerged: number;
  /** The most that meanKl may be. */
  readonly bound: number;
  readonly passed: boolean;
}

/** Logits of sequences, [T, V] each. */
export type SampleLogits = readonly Float32Array[];

/** Most bytes of logits to keep of one model. */
const keptBytes = 256 * 2 ** 20;

/** Cuts samples to what a receipt can hold: sequences of at most `longest` tokens, `tokens` in all. */
export function cutSamples(
  samples: readonly (readonly number[])[],
  limits: { readonly tokens: number; readonly longest: number; readonly vocabularySize: number },
): number[][] {
  let left = Math.min(limits.tokens, Math.max(2, Math.floor(keptBytes / 4 / limits.vocabularySize)));
  const cut: number[][] = [];
  for (const ids of samples) {
    if (left < 2) break;
    const piece = ids.slice(0, Math.min(left, limits.longest));
    if (piece.length < 2) continue;
    cut.push(piece);
    left -= piece.length;
  }
  return cut;
}

export async function sampleLogits(decoder: Decoder, samples: readonly number[][]): Promise<SampleLogits> {
  const logits: Float32Array[] = [];
  for (const ids of samples) logits.push(await tokenLogits(decoder, ids));
  return logits;
}

/** Holds merged logits against a reference's for the same samples. */
export function compareLogits(
  name: string,
  samples: readonly number[][],
  reference: SampleLogits,
  merged: SampleLogits,
  bound: number,
): Comparison {
  let klSum = 0;
  let maxKl = 0;
  let same = 0;
  let tokens = 0;
  let targets = 0;
  let lossReference = 0;
  let lossMerged = 0;
  for (const [s, ids] of samples.entries()) {
    const [p, q] = [reference[s]!, merged[s]!];
    invariant(p.length === q.length, "receipt: logits of different shapes");
    const width = p.length / ids.length;
    for (let t = 0; t < ids.length; t++) {
      const [rowP, rowQ] = [p, q].map((all) => all.subarray(t * width, (t + 1) * width)) as [
        Float32Array,
        Float32Array,
      ];
      const [normP, normQ] = [logSumExp(rowP), logSumExp(rowQ)];
      let kl = 0;
      let topP = 0;
      let topQ = 0;
      for (let i = 0; i < width; i++) {
        const logP = rowP[i]! - normP;
        kl += Math.exp(logP) * (logP - (rowQ[i]! - normQ));
        if (rowP[i]! > rowP[topP]!) topP = i;
        if (rowQ[i]! > rowQ[topQ]!) topQ = i;
      }
      // Rounding can leave a divergence of nothing a hair below zero.
      klSum += Math.max(0, kl);
      maxKl = Math.max(maxKl, kl);
      same += Number(topP === topQ);
      tokens++;
      const next = ids[t + 1];
      if (next === undefined) continue;
      lossReference += normP - rowP[next]!;
      lossMerged += normQ - rowQ[next]!;
      targets++;
    }
  }
  const meanKl = klSum / tokens;
  return {
    reference: name,
    tokens,
    meanKl,
    maxKl,
    sameTopToken: same / tokens,
    perplexityReference: Math.exp(lossReference / targets),
    perplexityMerged: Math.exp(lossMerged / targets),
    bound,
    passed: meanKl <= bound,
  };
}

function logSumExp(row: Float32Array): number {
  let top = Number.NEGATIVE_INFINITY;
  for (const value of row) top = Math.max(top, value);
  let sum = 0;
  for (const value of row) sum += Math.exp(value - top);
  return top + Math.log(sum);
}
