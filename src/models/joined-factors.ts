// An adapter whose factors began as part of the weights (nn/pissa.ts) as a plain LoRA of twice the rank on the unchanged
// base: as peft 0.21 converts it (LoraModel.subtract_mutated_init).

import type { AdapterConfig, AdapterPair, TensorValues } from "../formats/peft.ts";

/** [A; A0] and [B, -B0]: what the factors add to the unchanged base, as one pair of twice the rank. */
export function joinedFactors(
  a: TensorValues,
  b: TensorValues,
  firstA: TensorValues,
  scaledB: TensorValues,
  scale: number,
): AdapterPair {
  const [rank, inputs] = a.shape as [number, number];
  const outputs = b.shape[0]!;
  const stacked = new Float32Array(2 * rank * inputs);
  stacked.set(a.values);
  stacked.set(firstA.values, rank * inputs);
  const both = new Float32Array(2 * outputs * rank);
  for (let o = 0; o < outputs; o++) {
    const from = o * rank;
    both.set(b.values.subarray(from, from + rank), 2 * from);
    for (let r = 0; r < rank; r++) both[2 * from + rank + r] = scaledB.values[from + r]! / scale;
  }
  return {
    a: { shape: [2 * rank, inputs], values: stacked },
    b: { shape: [outputs, 2 * rank], values: both },
  };
}

/** The configuration of the joined factors: twice the rank at the same scale. */
export function configOfJoined(config: AdapterConfig): AdapterConfig {
  const factor = config.rslora ? Math.SQRT2 : 2;
  const times = (map: Readonly<Record<string, number>>, by: number) =>
    Object.fromEntries(Object.entries(map).map(([key, value]) => [key, value * by]));
  return {
    ...config,
    rank: 2 * config.rank,
    rankPattern: times(config.rankPattern, 2),
    alpha: factor * config.alpha,
    alphaPattern: times(config.alphaPattern, factor),
  };
}
