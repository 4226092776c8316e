// The preflight of a run: its data as data/preflight.ts sees them, and its memory as fit-memory.ts fits it to the device.
// Part of every `train` before the first step, and all of `lowrank check`, which loads no weights. Who refuses a run is
// data/preflight.ts's refuseRun, with a UserError that names the flag to run in spite of a finding.

import { openBackend } from "../backend/index.ts";
import type { TrainOptions } from "../config/train-options.ts";
import { longestSequence } from "../data/assemble-forks.ts";
import { preflight, refused } from "../data/preflight.ts";
import { lengthsOf, mostOf, numbersOf } from "../data/samples.ts";
import { locateModel } from "../formats/locate-model.ts";
import { openModelFolder } from "../formats/model-folder.ts";
import { type FittedModel, fitMemory, memoryFindings } from "../memory/fit-memory.ts";
import { readFolderConfig } from "../models/folder-config.ts";
import { objectives } from "../objectives/index.ts";
import { type OpenedText, openText } from "../text/open-text.ts";
import { type AddedTokens, addTokens } from "./added-tokens.ts";
import { capacityFindings, capacityOf } from "./capacity.ts";
import type { CheckReport } from "./check-report.ts";
import type { TrainEvent } from "./events.ts";
import { findLearningRate } from "./find-learning-rate.ts";
import { packTokens, textOf } from "./setup.ts";
import { loadTrainingData, type TrainingData } from "./training-data.ts";

/** Checks a run without loading weights: what `lowrank check` tells. With a sweep of so many steps, it loads them. */
export async function checkRun(
  options: TrainOptions,
  emit: (event: TrainEvent) => void,
  sweepSteps?: number,
): Promise<CheckReport> {
  const path = locateModel(options.model);
  const folder = await openModelFolder(path);
  let added: AddedTokens | undefined;
  try {
    using backend = await openBackend(options.backend, options);
    if (options.addTokens !== undefined) added = await addTokens(path, options.addTokens);
    const text = await openText({ ...textOf(options, added), model: path });
    for (const message of text.notes) emit({ type: "info", message });
    const data = await loadTrainingData(text, options, emit);
    const stored = await readFolderConfig(folder);
    const rows = added ? Math.max(stored.vocabularySize, text.tokenizer.vocabSize) : stored.vocabularySize;
    const config = { ...stored, vocabularySize: rows };
    for (const note of config.notes) emit({ type: "warning", message: `${path}: ${note}` });
    const report = await preflightRun({ backend, config, folder, text }, options, data, emit);
    if (sweepSteps === undefined || report.refused.length > 0) return report;
    const learningRate = await findLearningRate(backend, options, data, report.memory, sweepSteps, emit);
    return { ...report, learningRate };
  } finally {
    await folder.close();
    await added?.free();
  }
}

export interface CheckedModel extends FittedModel {
  readonly text: OpenedText;
}

/** The report of a run whose data are loaded; refuses nothing itself. */
export async function preflightRun(
  model: CheckedModel,
  options: TrainOptions,
  data: TrainingData,
  emit: (event: TrainEvent) => void,
): Promise<CheckReport> {
  const { tokenizer, template } = model.text;
  const report = preflight({
    train: data.train,
    report: data.report,
    sources: data.sources,
    evaluation: data.evaluation.length > 0 ? data.evaluation : undefined,
    evalReport: data.evalReport,
    rendering: { tokenizer, template, trainOn: options.trainOn },
  });
  const lengths = lengthsOf(data.train);
  const plain = objectives[options.objective].rows === "targets";
  const sequences = plain ? lengths : numbersOf(data.train, longestSequence);
  const { packing } = options;
  const { groupSize = 0, maxNewTokens = 0 } = data.prompts ? options : {};
  const sizes = {
    sequenceLength: packing ? options.sequenceLength : mostOf(sequences, 2) + maxNewTokens,
    sampleTokens: packing ? packTokens(options) : mostOf(lengths, 2) + groupSize * maxNewTokens,
  };
  const memory = await fitMemory(model, options, sizes, largestBatch(options, data));
  const ofRows = data.prompts ? report.findings.filter(({ code }) => ofPrompts.has(code)) : report.findings;
  // What preferences teach is not counted in tokens.
  const adapts = options.method !== "full" && options.objective === "sft";
  const capacity = adapts ? capacityOf(report, memory.prediction.trainableParameters) : undefined;
  const findings = [
    ...ofRows,
    ...memoryFindings(memory),
    ...(capacity ? capacityFindings(capacity, options.rank) : []),
  ];
  const stops = refused(findings, options.allow ?? []);
  const checked = { ...report, findings, memory, ...(capacity && { capacity }), refused: stops };
  emit({ type: "preflight", report: checked });
  return checked;
}

/** What can be said of prompts whose answers are yet to be written. */
const ofPrompts: ReadonlySet<string> = new Set(["length", "dropped-content", "unknown-text", "duplicates"]);

/** Rows, or packs, of the largest micro-batch that these samples can make. */
function largestBatch(options: TrainOptions, { train }: TrainingData): number {
  const { batchSize, packing } = options;
  if (!packing) return Math.max(1, Math.min(batchSize, train.length));
  let tokens = 0;
  for (const length of Uint32Array.from(lengthsOf(train))) tokens += length;
  return Math.max(1, Math.min(batchSize, Math.ceil(tokens / packTokens(options))));
}
