// How a run fits its device: what is recomputed, in what chunks logits exist, and whether optimizer state leaves the
// device. Within --vram, one after the other is turned on until the prediction fits, and nothing that was asked for
// otherwise is changed; without it only recomputation is chosen, by what the machine has. What still does not fit is a
// finding of the preflight (check.ts). Not here: the counting (predict-memory.ts).

import type { Backend } from "../backend/backend.ts";
import type { TrainOptions } from "../config/train-options.ts";
import type { Finding } from "../data/preflight.ts";
import { storedForm } from "../formats/bnb-config.ts";
import type { ModelFolder } from "../formats/model-folder.ts";
import { fromSafetensorsDType } from "../formats/safetensors.ts";
import { activationBytes } from "../models/activation-bytes.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { pieceElements } from "../optim/paging.ts";
import { defaultLogitsChunkBytes } from "../session/device-batch.ts";
import type { DType } from "../tensor/dtype.ts";
import { machineMemory } from "./machine-memory.ts";
import { type MemoryPrediction, predictMemory } from "./predict-memory.ts";
import { predictRss } from "./process-memory.ts";
import { chooseCheckpointing } from "./state-memory.ts";

/** What decides how much memory a run needs and does not change what it learns. */
export interface MemoryChoices {
  readonly gradientCheckpointing: boolean;
  readonly logitsChunkBytes: number;
  readonly paged: boolean;
  /** Optimizer state that stays on the device when paged; absent: paging.ts chooses. */
  readonly pagedBudget?: number;
}

export interface MemoryCheck extends MemoryChoices {
  readonly prediction: MemoryPrediction;
  /** The least that the device must hold at once. */
  readonly neededBytes: number;
  /** Resident memory of the process at its peak, where the device's memory is the machine's. */
  readonly rssBytes?: number;
  /** What a card is asked for at the most, where it is one: gaps between blocks and products' scratch included. */
  readonly deviceBytes?: number;
  /** What there is, and of what; absent where a device does not tell and --vram was not given. */
  readonly limit?: { readonly bytes: number; readonly source: string };
}

export interface FittedModel {
  readonly backend: Backend;
  readonly config: DecoderConfig;
  readonly folder: ModelFolder;
  /** Processes of this run that share the machine's memory; 1 when absent. */
  readonly sharedBy?: number;
}

/** Chunks of logits where memory is short; smaller ones make the head's products slow and save little more. */
const smallLogitsChunkBytes = 8 * 2 ** 20;
/** Share of a limit that may be planned with; the rest is for what no ledger counts. */
const usableShare = 0.9;
/** The same of a card: what it is asked for is known to the page, and nobody else's programs come and go as on a machine. */
const usableOnCard = 0.98;

/**
 * The choices for a run whose largest micro-batch is `rows` sequences, or packs, of `sequenceLength` tokens, or samples of
 * such sequences that take `sampleTokens` each.
 */
export async function fitMemory(
  { backend, config, folder, sharedBy = 1 }: FittedModel,
  options: TrainOptions,
  { sequenceLength, sampleTokens }: { readonly sequenceLength: number; readonly sampleTokens: number },
  rows = options.batchSize,
): Promise<MemoryCheck> {
  const { vram, paged } = options;
  const card = backend.deviceMemory?.();
  const predict = async (choices: MemoryChoices) => {
    const prediction = await predictMemory(config, {
      recipe: { ...options, trainsTables: options.addTokens !== undefined },
      ...{
        precision: backend.precision,
        widensBf16: backend.widensBf16,
        batchSize: rows,
        accumulates: options.gradientAccumulation > 1 || options.batchTokens !== undefined,
      },
      ...{ sequenceLength, sampleTokens, checkpointing: choices.gradientCheckpointing },
      storedForm: storedForm(folder.config),
      ...{ storedDType: storedDTypeOf(folder), logitsChunkBytes: choices.logitsChunkBytes },
      onCard: card !== undefined,
    });
    const needed = neededBytes(prediction, choices.paged);
    if (!card) return { ...choices, prediction, neededBytes: needed };
    const saved = prediction.ledger.peakBytes - needed;
    const deviceBytes = prediction.deviceBytes! - saved;
    return { ...choices, prediction, neededBytes: deviceBytes, deviceBytes };
  };
  const asked = { paged, logitsChunkBytes: defaultLogitsChunkBytes, pagedBudget: options.pagedBudget };
  if (vram === undefined && card && options.gradientCheckpointing === "auto") {
    // Recomputing costs about half a step more and changes no number, and a card's memory is nobody else's: only a run that
    // does not fit without recomputes.
    const keeping = await predict({ ...asked, gradientCheckpointing: false });
    const fits = keeping.neededBytes <= usableOnCard * card.availableBytes;
    const chosen = fits ? keeping : await predict({ ...asked, gradientCheckpointing: true });
    return { ...chosen, limit: { bytes: card.availableBytes, source: "free on the card" } };
  }
  if (vram === undefined) {
    const kept = activationBytes(config, rows * Math.max(sampleTokens, sequenceLength), false);
    const gradientCheckpointing = chooseCheckpointing(options.gradientCheckpointing, backend, kept);
    const chosen = await predict({ ...asked, gradientCheckpointing });
    if (card) return { ...chosen, limit: { bytes: card.availableBytes, source: "free on the card" } };
    if (backend.name === "webgpu") return chosen;
    const { bytes, source } = machineMemory();
    const limit =
      sharedBy > 1
        ? { bytes: Math.floor(bytes / sharedBy), source: `${source}, shared by ${sharedBy} ranks` }
        : { bytes, source };
    return { ...chosen, rssBytes: rssOf(chosen), limit };
  }
  // The cheapest first.
  const measures: Partial<MemoryChoices>[] = [
    { logitsChunkBytes: smallLogitsChunkBytes },
    ...(options.gradientCheckpointing === "auto" ? [{ gradientCheckpointing: true }] : []),
    ...(paged ? [] : [{ paged: true }]),
  ];
  let chosen = await predict({ ...asked, gradientCheckpointing: options.gradientCheckpointing === "on" });
  for (const measure of measures) {
    if (chosen.neededBytes <= usableShare * vram) break;
    const next = await predict({ ...chosen, ...measure });
    if (next.neededBytes < chosen.neededBytes) chosen = next;
  }
  const left = Math.max(0, Math.floor(usableShare * vram - chosen.neededBytes));
  return {
    ...chosen,
    pagedBudget: chosen.paged ? (chosen.pagedBudget ?? left) : undefined,
    rssBytes: card || backend.name === "webgpu" ? undefined : rssOf(chosen),
    limit: { bytes: vram, source: "--vram" },
  };
}

function rssOf({
  neededBytes: needed,
  prediction,
}: {
  readonly neededBytes: number;
  readonly prediction: MemoryPrediction;
}): number {
  return predictRss(needed, prediction.packedBytes + prediction.hostBytes);
}

/** With paging, state is on the device only in pieces, while nothing else of a step is: two of each tensor. */
function neededBytes({ ledger }: MemoryPrediction, paged: boolean): number {
  if (!paged) return ledger.peakBytes;
  const inPieces = Math.min(ledger.live.optimizer, 4 * 4 * pieceElements);
  return Math.max(
    ledger.peakBytes - ledger.atPeak.optimizer,
    ledger.liveBytes - ledger.live.optimizer + inPieces,
  );
}

/** The dtype of most of a checkpoint's bytes: its largest tensor's. */
function storedDTypeOf(folder: ModelFolder): DType | undefined {
  const entries = [...folder.tensors.values()];
  const largest = entries.reduce((a, b) => (b.sizeBytes > a.sizeBytes ? b : a), entries[0]!);
  const dtype = largest && fromSafetensorsDType(largest.dtype);
  return dtype === "f32" || dtype === "bf16" || dtype === "f16" ? dtype : undefined;
}

export function memoryFindings({
  neededBytes,
  rssBytes,
  deviceBytes,
  limit,
  gradientCheckpointing,
}: MemoryCheck): Finding[] {
  if (!limit) return [];
  // --vram speaks of the device's own bytes; on a CPU the whole process must fit in the machine.
  const needed = limit.source === "--vram" ? neededBytes : (deviceBytes ?? rssBytes ?? 0);
  const usable = deviceBytes === undefined ? usableShare : usableOnCard;
  if (needed <= usable * limit.bytes) return [];
  const gb = (bytes: number) =>
    bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`;
  const less = gradientCheckpointing ? "" : ", --gradient-checkpointing on";
  return [
    {
      code: "memory",
      level: needed > limit.bytes ? "refuse" : "warn",
      message: `the run will need ${gb(needed)} at its peak, and there are ${gb(limit.bytes)} (${limit.source}); use a smaller --batch-size or --sequence-length${less}, or --method qlora`,
      rows: [],
    },
  ];
}
