// The preflight of a run: its data as data/preflight.ts sees them, and its memory as predict-memory.ts counts it, against
// the device. Part of every `train` before the first step, and all of `lowrank check`, which loads no weights. Refused
// findings end the run with a UserError that names the flag to run in spite of them.

import { totalmem } from "node:os";
import type { Backend } from "../backend/backend.ts";
import { openBackend } from "../backend/index.ts";
import type { TrainOptions } from "../config/train-options.ts";
import { toExamples } from "../data/index.ts";
import { type Finding, type PreflightReport, preflight, refused } from "../data/preflight.ts";
import { readRows } from "../data/read-rows.ts";
import { locateModel } from "../formats/locate-model.ts";
import { type ModelFolder, openModelFolder } from "../formats/model-folder.ts";
import { fromSafetensorsDType } from "../formats/safetensors.ts";
import { activationBytes } from "../models/activation-bytes.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { readModelConfig } from "../models/index.ts";
import type { OptimizerName } from "../optim/index.ts";
import type { DType } from "../tensor/dtype.ts";
import { ChatTemplate } from "../text/chat-template.ts";
import { loadChatTemplate, loadTokenizer } from "../text/load-tokenizer.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { TrainEvent } from "./events.ts";
import { type MemoryPrediction, predictMemory } from "./predict-memory.ts";
import { predictRss } from "./process-memory.ts";
import { chooseCheckpointing, loadTrainingData, type TrainingData } from "./setup.ts";

export interface CheckReport extends PreflightReport {
  readonly memory: MemoryCheck;
  /** Findings that stop the run as it is asked for. */
  readonly refused: readonly Finding[];
}

export interface MemoryCheck {
  readonly prediction: MemoryPrediction;
  /** The least that the device must hold at once. */
  readonly neededBytes: number;
  readonly gradientCheckpointing: boolean;
  /** Resident memory of the process at its peak, where the device's memory is the machine's. */
  readonly rssBytes?: number;
  /** What there is, and of what; absent where a device does not tell and --vram was not given. */
  readonly limit?: { readonly bytes: number; readonly source: string };
}

/** Checks a run without loading weights: what `lowrank check` tells. */
export async function checkRun(
  options: TrainOptions,
  emit: (event: TrainEvent) => void,
): Promise<CheckReport> {
  const path = locateModel(options.model);
  const folder = await openModelFolder(path);
  try {
    const backend = await openBackend(options.backend, options);
    try {
      const tokenizer = await loadTokenizer(path);
      // The report holds every finding; the sample loader's own warnings would tell them twice.
      const data = await loadTrainingData({ tokenizer }, options, () => {});
      const config = readModelConfig(folder.config);
      return await preflightRun({ backend, config, folder, tokenizer }, options, data, emit);
    } finally {
      backend.close();
    }
  } finally {
    await folder.close();
  }
}

export interface CheckedModel {
  readonly backend: Backend;
  readonly config: DecoderConfig;
  readonly folder: ModelFolder;
  readonly tokenizer: Tokenizer;
}

/** The report of a run whose data are loaded; refuses nothing itself. */
export async function preflightRun(
  model: CheckedModel,
  options: TrainOptions,
  data: TrainingData,
  emit: (event: TrainEvent) => void,
): Promise<CheckReport> {
  const source =
    options.chatTemplate === undefined ? undefined : await loadChatTemplate(options.chatTemplate);
  const report = preflight({
    train: data.train,
    report: data.report,
    evaluation: data.evaluation.length > 0 ? data.evaluation : undefined,
    examples: toExamples(await readRows(options.data)).rows,
    rendering: {
      tokenizer: model.tokenizer,
      template: ChatTemplate.of(model.tokenizer, source),
      trainOn: options.trainOn,
    },
  });
  const memory = await checkMemory(model, options, data);
  const findings = [...report.findings, ...memoryFindings(memory)];
  const checked = { ...report, findings, memory, refused: refused(findings, options.allow ?? []) };
  emit({ type: "preflight", report: checked });
  return checked;
}

async function checkMemory(
  { backend, config, folder }: CheckedModel,
  options: TrainOptions,
  data: TrainingData,
): Promise<MemoryCheck> {
  const longest = data.train.reduce((most, { ids }) => Math.max(most, ids.length), 2);
  const sequenceLength = options.packing ? options.sequenceLength : longest;
  const tokens = options.batchSize * sequenceLength;
  const gradientCheckpointing = chooseCheckpointing(
    options.gradientCheckpointing,
    backend,
    activationBytes(config, tokens, false),
    options.vram,
  );
  const prediction = await predictMemory(config, {
    method: options.method,
    rank: options.rank,
    targets: options.targets,
    optimizer: options.optimizer as OptimizerName,
    precision: backend.precision,
    batchSize: options.batchSize,
    sequenceLength,
    checkpointing: gradientCheckpointing,
    storedDType: storedDTypeOf(folder),
  });
  const { ledger } = prediction;
  // With --paged, state that does not fit beside the rest lies in a file.
  const neededBytes = ledger.peakBytes - (options.paged ? ledger.atPeak.optimizer : 0);
  if (backend.name === "webgpu") {
    const limit = options.vram === undefined ? undefined : { bytes: options.vram, source: "--vram" };
    return { prediction, neededBytes, gradientCheckpointing, limit };
  }
  const rssBytes = predictRss(neededBytes);
  const limit =
    options.vram === undefined
      ? { bytes: totalmem(), source: "this machine's memory" }
      : { bytes: options.vram, source: "--vram" };
  return { prediction, neededBytes, gradientCheckpointing, rssBytes, limit };
}

/** The dtype of most of a checkpoint's bytes: its largest tensor's. */
function storedDTypeOf(folder: ModelFolder): DType | undefined {
  const entries = [...folder.tensors.values()];
  const largest = entries.reduce((a, b) => (b.sizeBytes > a.sizeBytes ? b : a), entries[0]!);
  const dtype = largest && fromSafetensorsDType(largest.dtype);
  return dtype === "f32" || dtype === "bf16" || dtype === "f16" ? dtype : undefined;
}

function memoryFindings({ neededBytes, rssBytes, limit, gradientCheckpointing }: MemoryCheck): Finding[] {
  if (!limit) return [];
  // --vram speaks of the device's own bytes; on a CPU the whole process must fit in the machine.
  const needed = limit.source === "--vram" ? neededBytes : (rssBytes ?? 0);
  if (needed <= 0.9 * limit.bytes) return [];
  const gb = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
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
