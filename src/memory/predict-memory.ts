// What a training run will need on its device, before there is one: the same loading, adapter, optimizer and trainer as
// a real run, on a backend that only counts (backend/counting.ts). Exact by construction: there is no second model of
// memory that could drift from the code. Not here: what the process needs besides (process-memory.ts), or what is
// made of the figures (plan/).

import type { Backend, LedgerReport, Precision } from "../backend/backend.ts";
import { openCounting } from "../backend/counting.ts";
import { openCountedCard } from "../backend/cuda/counted.ts";
import { type Batch, NO_TARGET } from "../data/assemble.ts";
import type { Sample } from "../data/render.ts";
import type { StoredForm } from "../formats/bnb-config.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { weightSpecs } from "../models/decoder-weights.ts";
import { type LoadedDecoder, loadDecoder, type WeightSource } from "../models/load-model.ts";
import { placeMxfp4, quantizeOnArrival } from "../models/quantized-weights.ts";
import { randomDecoder } from "../models/random-model.ts";
import { objectives } from "../objectives/index.ts";
import { Session } from "../session/session.ts";
import type { SessionRecipe } from "../session/trainable.ts";
import { type DType, dtypeBytes } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { BugError, UserError } from "../util/errors.ts";

/** Everything that the memory of a run depends on. */
export interface MemoryCase {
  /** What trains, whole: what a kind of adapter or an optimizer adds is counted without a word here. */
  readonly recipe: SessionRecipe;
  readonly precision: Precision;
  readonly batchSize: number;
  readonly sequenceLength: number;
  /** Most tokens of a sample, where it is several completions of a prompt; absent: as many as there can be. */
  readonly sampleTokens?: number;
  readonly checkpointing: boolean;
  /** Several micro-batches make a step, so that their gradients are summed beside the one that is being made. */
  readonly accumulates?: boolean;
  /** dtype of the checkpoint's tensors, whose conversion needs room while loading; absent: random weights, as bench makes. */
  readonly storedDType?: DType;
  /** How the checkpoint holds weights in 4 bits, which stay so whatever the method. */
  readonly storedForm?: StoredForm;
  readonly logitsChunkBytes?: number;
  /** The device is one that widens bf16 (Backend.widensBf16). */
  readonly widensBf16?: boolean;
  /** Counts what the CUDA backend takes of a card besides: see deviceBytes. */
  readonly onCard?: boolean;
}

export interface MemoryPrediction {
  readonly ledger: LedgerReport;
  /** What the card gives, all in all; absent where no card was asked about. */
  readonly deviceBytes?: number;
  /** Beside the ledger, on the CPU backend: the largest operand that a product packs. */
  readonly packedBytes: number;
  /** In the host's memory beside any device: tables of which tokens' rows alone are brought over. */
  readonly hostBytes: number;
  readonly trainableParameters: number;
  /** Of the base model. */
  readonly baseParameters: number;
}

/** The ledger at the end of one whole step on full sequences whose every token is a target: the most that a run needs. */
export async function predictMemory(config: DecoderConfig, run: MemoryCase): Promise<MemoryPrediction> {
  const counting = run.onCard ? undefined : openCounting(run.precision, run.widensBf16);
  const backend = counting ?? openCountedCard(run.precision);
  const loaded = await load(backend, config, run);
  // Not freed: the ledger is read while everything lives, and nothing of it is real.
  const session = new Session(loaded, run.recipe, {
    checkpointing: run.checkpointing,
    logitsChunkBytes: run.logitsChunkBytes,
  });
  const { scoring } = session.objective;
  const batch = scoring ? scoredBatch(session, run) : fullBatch(run.batchSize, run.sequenceLength);
  if (scoring) await session.refer(batch.scored!.samples, run.batchSize * run.sequenceLength, false);
  await session.trainStep(run.accumulates ? [batch, batch] : [batch], { learningRate: 1e-4 });
  return {
    ledger: backend.ledger(),
    deviceBytes: backend.deviceMemory?.().heldBytes,
    packedBytes: counting?.packedBytes ?? 0,
    hostBytes: hostBytes(config, run),
    trainableParameters: session.parameters.count,
    baseParameters: loaded.totalParameters,
  };
}

function hostBytes(config: DecoderConfig, { recipe, storedDType = "f32" }: MemoryCase): number {
  if (recipe.method === "full") return 0;
  const onHost = weightSpecs(config).filter((spec) => spec.onHost);
  return onHost.reduce((sum, { shape }) => sum + elementCount(shape) * dtypeBytes[storedDType], 0);
}

function load(backend: Backend, config: DecoderConfig, run: MemoryCase): Promise<LoadedDecoder> {
  const { method } = run.recipe;
  const inFourBits = method === "qlora" || (run.storedForm === "bitsandbytes" && method !== "full");
  const options = {
    train: method === "full",
    quantize: inFourBits ? quantizeOnArrival(backend) : undefined,
  };
  if (run.storedDType === undefined) return randomDecoder(backend, config, 0, options);
  const source = countedSource(config, run.storedDType);
  const experts = run.storedForm === "mxfp4" && method !== "full" ? countedMxfp4(backend, config) : {};
  return loadDecoder(backend, config, { ...source, ...experts }, options);
}

/** Experts that lie in a file as they are used: all of a size, and nobody reads them. */
function countedMxfp4(backend: Backend, config: DecoderConfig): Partial<WeightSource> {
  const experts = new Set(
    weightSpecs(config).flatMap(({ name, kind }) => (kind === "experts" ? [name] : [])),
  );
  return {
    quantizesRest: true,
    async quantized(name, shape) {
      if (!experts.has(name)) return undefined;
      return placeMxfp4(backend, shape as readonly [number, number, number], () => {
        throw new BugError("an expert was read where bytes are only counted");
      });
    },
  };
}

/** A checkpoint that has every tensor and no bytes. */
function countedSource(config: DecoderConfig, dtype: DType): WeightSource {
  const shapes = new Map(weightSpecs(config).map((spec) => [spec.name, spec.shape]));
  const nothing = new Uint8Array(0);
  return {
    path: "the configuration",
    find(name) {
      const shape = shapes.get(name);
      return shape && { dtype, shape };
    },
    read: async () => nothing,
  };
}

/** Completions of a prompt that a model writes itself, where nobody says. */
const usualGroupSize = 8;

/** Pairs, rated completions, or groups of those that the model writes, of the longest sequences that the run may have. */
function scoredBatch(session: Session, run: MemoryCase): Batch {
  const { batchSize, sequenceLength } = run;
  refuseHuge(2 * batchSize, sequenceLength);
  const pairs = objectives[run.recipe.objective ?? "sft"].rows === "pairs";
  const most = 2 * sequenceLength - 1;
  const total = pairs
    ? Math.min(most, Math.max(sequenceLength + 1, run.sampleTokens ?? most))
    : sequenceLength;
  const { rollouts } = session.objective;
  const written = Math.min(run.recipe.maxNewTokens ?? 128, sequenceLength - 1);
  const groupSize =
    run.sampleTokens === undefined
      ? usualGroupSize
      : Math.max(1, Math.round((run.sampleTokens - sequenceLength + written) / written));
  const second = pairs
    ? [total - sequenceLength]
    : rollouts
      ? Array.from({ length: groupSize - 1 }, () => written)
      : [];
  const prompt = pairs ? Math.max(1, sequenceLength - second[0]!) : rollouts ? sequenceLength - written : 1;
  const fork = { prompt, completions: [sequenceLength - prompt, ...second] };
  const samples = Array.from({ length: batchSize }, (_, i): Sample => {
    const ids = new Int32Array(fork.completions.reduce((a, b) => a + b, prompt));
    const rowId = { file: "counted", line: i + 1, unit: "row" } as const;
    return { ids, targetMask: new Uint8Array(ids.length).fill(1), rowId, fork, label: i % 2 === 0 };
  });
  for (const sample of samples) rollouts?.set(sample, { advantages: fork.completions.map(() => 0) });
  session.objective.prepare?.(samples, { batchSize, sequenceLength });
  return session.assemble(samples);
}

function refuseHuge(sequences: number, length: number): void {
  if (sequences * length > 2 ** 28)
    throw new UserError(
      `${sequences} x ${length} tokens in a micro-batch: more than ${2 ** 28} are not planned for`,
    );
}

/** Sequences of one length end to end, every token but the first a target. */
function fullBatch(sequences: number, length: number): Batch {
  const total = sequences * length;
  refuseHuge(sequences, length);
  const targets = new Int32Array(total);
  const segments = new Int32Array(4 * sequences);
  for (let s = 0; s < sequences; s++) {
    targets[(s + 1) * length - 1] = NO_TARGET;
    segments.set([s * length, length, s * length, length], 4 * s);
  }
  return {
    ids: new Int32Array(total),
    targets,
    segments,
    maxLength: length,
    targetTokens: total - sequences,
    rowIds: Array.from({ length: sequences }, (_, i) => ({ file: "counted", line: i + 1, unit: "row" })),
  };
}
