// Ledgers of every way to train a shape: full in fp32, full with bf16 products, LoRA, QLoRA; each kept or recomputed
// activations, 32- or 8-bit optimizer. Which of them fit, and the largest batch and length that do. The ledgers
// themselves are counted by memory/predict-memory.ts.

import type { LedgerReport } from "../backend/backend.ts";
import type { Method } from "../config/fields.ts";
import { type MemoryCase, type MemoryPrediction, predictMemory } from "../memory/predict-memory.ts";
import { type OptimizerName, optimizers } from "../optim/index.ts";
import type { SessionRecipe } from "../session/trainable.ts";
import type { ModelShape } from "./shape.ts";

/** One row of the plan: a method in an arithmetic. */
export interface PlannedMethod {
  readonly name: string;
  readonly title: string;
  readonly method: Method;
  readonly precision: MemoryCase["precision"];
}

export const plannedMethods: readonly PlannedMethod[] = [
  { name: "full-fp32", title: "full, fp32", method: "full", precision: "fp32" },
  { name: "full-bf16", title: "full, bf16 products", method: "full", precision: "bf16" },
  { name: "lora", title: "LoRA, bf16 base", method: "lora", precision: "bf16" },
  { name: "qlora", title: "QLoRA, NF4 base", method: "qlora", precision: "bf16" },
];

export interface MemoryVariant {
  readonly checkpointing: boolean;
  readonly optimizer: OptimizerName;
  readonly paged: boolean;
  /** What the device must hold at once. */
  readonly peakBytes: number;
  readonly ledger: LedgerReport;
  /** What the CUDA backend asks a card for: peakBytes with gaps between blocks and products' scratch; absent off cards. */
  readonly deviceBytes?: number;
  /** Absent when no limit was given. */
  readonly fits?: boolean;
}

export interface MethodPlan extends PlannedMethod {
  readonly trainableParameters: number;
  /** bytes / base parameter of what the weights take, scales included. */
  readonly bytesPerParameter: number;
  readonly variants: readonly MemoryVariant[];
  /** With activations recomputed and the optimizer asked for; absent when no limit was given. */
  readonly largest?: { readonly batchSize: number; readonly sequenceLength: number };
}

export interface MemoryOptions {
  /** But for the method, which each plan has of its own. */
  readonly recipe: Omit<SessionRecipe, "method">;
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly paged: boolean;
  readonly limitBytes?: number;
  /** The limit is an NVIDIA card's: what the CUDA backend asks of it is held against it. */
  readonly onCard?: boolean;
}

/** The whole plan of one method. */
export async function planMethod(
  shape: ModelShape,
  planned: PlannedMethod,
  options: MemoryOptions,
): Promise<MethodPlan> {
  const variants: MemoryVariant[] = [];
  let last: MemoryPrediction | undefined;
  for (const optimizer of Object.keys(optimizers) as OptimizerName[]) {
    for (const checkpointing of [false, true]) {
      last = await predictMemory(
        shape.config,
        caseOf(shape, planned, { ...options, recipe: { ...options.recipe, optimizer }, checkpointing }),
      );
      for (const paged of [false, true]) {
        const saved = paged ? last.ledger.atPeak.optimizer : 0;
        const peakBytes = last.ledger.peakBytes - saved;
        const deviceBytes = last.deviceBytes === undefined ? undefined : last.deviceBytes - saved;
        variants.push({
          checkpointing,
          optimizer,
          paged,
          peakBytes,
          ledger: last.ledger,
          ...(deviceBytes === undefined ? {} : { deviceBytes }),
          ...(options.limitBytes === undefined
            ? {}
            : { fits: (deviceBytes ?? peakBytes) <= options.limitBytes }),
        });
      }
    }
  }
  const { weights, scales } = last!.ledger.live;
  return {
    ...planned,
    trainableParameters: last!.trainableParameters,
    bytesPerParameter: (weights + scales) / last!.baseParameters,
    variants,
    ...(options.limitBytes === undefined ? {} : { largest: await largestThatFit(shape, planned, options) }),
  };
}

function caseOf(
  shape: ModelShape,
  planned: PlannedMethod,
  options: MemoryOptions & { readonly checkpointing: boolean },
): MemoryCase {
  const { recipe, batchSize, sequenceLength, checkpointing } = options;
  return {
    recipe: { ...recipe, method: planned.method },
    precision: planned.precision,
    ...{ storedDType: shape.storedDType, storedForm: shape.storedForm },
    ...{ batchSize, sequenceLength, checkpointing, onCard: options.onCard },
  };
}

/** Beyond this many tokens in a micro-batch nobody trains; the search stops there. */
const mostTokens = 2 ** 20;

async function largestThatFit(shape: ModelShape, planned: PlannedMethod, options: MemoryOptions) {
  const peak = async (batchSize: number, sequenceLength: number) => {
    const run = caseOf(shape, planned, { ...options, batchSize, sequenceLength, checkpointing: true });
    const { ledger, deviceBytes } = await predictMemory(shape.config, run);
    return (deviceBytes ?? ledger.peakBytes) - (options.paged ? ledger.atPeak.optimizer : 0);
  };
  const limit = options.limitBytes!;
  const longest = Math.min(mostTokens, shape.config.maxPositions);
  const perSequence = Math.max(1, Math.floor(mostTokens / options.sequenceLength));
  return {
    batchSize: await largest((n) => peak(n, options.sequenceLength), limit, perSequence),
    sequenceLength: 64 * (await largest((n) => peak(1, 64 * n), limit, Math.floor(longest / 64))),
  };
}

/** The largest n in 1..most with cost(n) <= limit, for a rising, nearly straight cost; 0 when there is none. */
async function largest(cost: (n: number) => Promise<number>, limit: number, most: number): Promise<number> {
  let low = { n: 1, cost: await cost(1) };
  if (low.cost > limit || most < 1) return 0;
  let high = { n: most, cost: await cost(most) };
  if (high.cost <= limit) return most;
  while (high.n - low.n > 1) {
    // Where the straight line between the two crosses the limit; one step inside, so that both ends close in.
    const at = low.n + ((high.n - low.n) * (limit - low.cost)) / (high.cost - low.cost);
    let n = Math.min(high.n - 1, Math.max(low.n + 1, Math.floor(at)));
    let found = await cost(n);
    if (found <= limit) {
      low = { n, cost: found };
      if (n + 1 < high.n) {
        n += 1;
        found = await cost(n);
        if (found > limit) return n - 1;
        low = { n, cost: found };
      }
    } else high = { n, cost: found };
  }
  return low.n;
}
