// The preflight of a run: its data as data/preflight.ts sees them, and its memory as fit-memory.ts fits it to the device. Part of every `train` before the first step, and all of `lowrank check`, which loads no weights. Refused
// findings end the run with a UserError that names the flag to run in spite of them.

import { openBackend } from "../backend/index.ts";
import type { TrainOptions } from "../config/train-options.ts";
import { toExamples } from "../data/index.ts";
import { type Finding, type PreflightReport, preflight, refused } from "../data/preflight.ts";
import { readRows } from "../data/read-rows.ts";
import { locateModel } from "../formats/locate-model.ts";
import { openModelFolder } from "../formats/model-folder.ts";
import { readFolderConfig } from "../models/folder-config.ts";
import { type OpenedText, openText } from "../text/open-text.ts";
import { type AddedTokens, addTokens } from "./added-tokens.ts";
import type { TrainEvent } from "./events.ts";
import { type FittedModel, fitMemory, type MemoryCheck, memoryFindings } from "./fit-memory.ts";
import { loadTrainingData, type TrainingData, tellOfData, textOf } from "./setup.ts";

export interface CheckReport extends PreflightReport {
  readonly memory: MemoryCheck;
  /** Findings that stop the run as it is asked for. */
  readonly refused: readonly Finding[];
}

/** Checks a run without loading weights: what `lowrank check` tells. */
export async function checkRun(
  options: TrainOptions,
  emit: (event: TrainEvent) => void,
): Promise<CheckReport> {
  const path = locateModel(options.model);
  const folder = await openModelFolder(path);
  let added: AddedTokens | undefined;
  try {
    const backend = await openBackend(options.backend, options);
    try {
      if (options.addTokens !== undefined) added = await addTokens(path, options.addTokens);
      const text = await openText({ ...textOf(options, added), model: path });
      for (const message of text.notes) emit({ type: "info", message });
      // The report holds every finding; the sample loader's own warnings would tell them twice.
      const data = await loadTrainingData(text, options, () => {});
      if (data.evalReport !== undefined) tellOfData(data.evalReport, emit);
      const stored = await readFolderConfig(folder);
      const rows = added ? Math.max(stored.vocabularySize, text.tokenizer.vocabSize) : stored.vocabularySize;
      const config = { ...stored, vocabularySize: rows };
      for (const note of config.notes) emit({ type: "warning", message: `${path}: ${note}` });
      return await preflightRun({ backend, config, folder, text }, options, data, emit);
    } finally {
      backend.close();
    }
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
    evaluation: data.evaluation.length > 0 ? data.evaluation : undefined,
    evalReport: data.evalReport,
    examples: toExamples(await readRows(options.data)).rows,
    rendering: { tokenizer, template, trainOn: options.trainOn },
  });
  const longest = data.train.reduce((most, { ids }) => Math.max(most, ids.length), 2);
  const sequenceLength = options.packing ? options.sequenceLength : longest;
  const memory = await fitMemory(model, options, sequenceLength, largestBatch(options, data));
  const findings = [...report.findings, ...memoryFindings(memory)];
  const checked = { ...report, findings, memory, refused: refused(findings, options.allow ?? []) };
  emit({ type: "preflight", report: checked });
  return checked;
}

/** Rows, or packs, of the largest micro-batch that these samples can make. */
function largestBatch({ batchSize, packing, sequenceLength }: TrainOptions, { train }: TrainingData): number {
  if (!packing) return Math.max(1, Math.min(batchSize, train.length));
  const tokens = train.reduce((sum, { ids }) => sum + ids.length, 0);
  return Math.max(1, Math.min(batchSize, Math.ceil(tokens / sequenceLength)));
}
