// How long a token budget takes and what it costs: operations a token from the shapes (models/flops.ts), over a rate
// that was measured here (probe.ts) or that a GPU's peak and a stated utilisation give. What is left out is said in
// `assumptions`, so that nobody has to guess.

import type { Method } from "../config/fields.ts";
import { stepFlops } from "../models/flops.ts";
import type { Gpu } from "./gpus.ts";
import { adapterParameters, type ModelShape } from "./shape.ts";

export interface WorkShape {
  readonly rank: number;
  readonly targets: string;
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly checkpointing: boolean;
}

/** Operations of training on one token; products only, two a multiply-add. */
export function flopsPerToken(shape: ModelShape, method: Method, work: WorkShape): number {
  const { batchSize, sequenceLength, checkpointing } = work;
  const full = method === "full";
  const flops = stepFlops(shape.config, {
    sequences: batchSize,
    sequenceLength,
    targetTokens: batchSize * (sequenceLength - 1),
    adapterParameters: full ? 0 : adapterParameters(shape.config, work.rank, work.targets),
    full,
    checkpointing,
  });
  return flops / (batchSize * sequenceLength);
}

export interface Estimate {
  readonly flopsPerToken: number;
  readonly tokensPerSecond: number;
  /** For the token budget; absent without one. */
  readonly seconds?: number;
  /** US dollars; absent without a price. */
  readonly cost?: number;
  readonly rate: string;
  readonly assumptions: readonly string[];
}

export interface Budget {
  readonly tokens?: number;
  /** US dollars an hour, and where it comes from. */
  readonly price?: { readonly perHour: number; readonly source: string };
}

/** At a GPU's peak times a utilisation. */
export function estimateOnGpu(
  gpu: Gpu,
  utilization: number,
  flops: number,
  method: Method,
  budget: Budget,
): Estimate {
  const tokensPerSecond = (gpu.tflops * 1e12 * utilization) / flops;
  const assumptions = [
    `${gpu.title}: ${gpu.tflops} TFLOP/s dense at 16 bits (${gpu.source})`,
    `${(100 * utilization).toFixed(0)}% of that peak is reached (assumed, not measured; --utilization)`,
    ...(method === "qlora" ? ["unpacking of 4-bit weights is taken as free"] : []),
  ];
  const rate = `${gpu.name} at ${(100 * utilization).toFixed(0)}% of its peak`;
  return withBudget({ flopsPerToken: flops, tokensPerSecond, rate, assumptions }, budget);
}

/** Adds time and cost of a budget to a rate. */
export function withBudget(estimate: Omit<Estimate, "seconds" | "cost">, budget: Budget): Estimate {
  if (budget.tokens === undefined) return estimate;
  const seconds = budget.tokens / estimate.tokensPerSecond;
  if (!budget.price) return { ...estimate, seconds };
  const { perHour, source } = budget.price;
  return {
    ...estimate,
    seconds,
    cost: (seconds / 3600) * perHour,
    assumptions: [...estimate.assumptions, `$${perHour} an hour (${source})`],
  };
}
