// What a run is made of before its first step: model with what trains, data as samples, optimizer. Messages about
// the data are emitted here, and a run that could teach nothing is refused here.

import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import type { Backend } from "../backend/backend.ts";
import type { TrainOptions } from "../config/train-options.ts";
import {
  type Dataset,
  type DatasetOptions,
  type DatasetReport,
  loadDataset,
  refuseWithoutTargets,
} from "../data/dataset.ts";
import { ignoredKeysText } from "../data/preflight.ts";
import type { Sample } from "../data/render.ts";
import { splitEval } from "../data/split-eval.ts";
import { locateModel } from "../formats/locate-model.ts";
import { hashModelFolder } from "../formats/model-hash.ts";
import { readAdapter } from "../formats/peft.ts";
import { type OpenedModel, openModel } from "../models/open-model.ts";
import { quantizeOnArrival } from "../models/quantized-weights.ts";
import { hostState } from "../optim/host-paging.ts";
import { pagedState, residentState, type StateMemory } from "../optim/paging.ts";
import type { OpenedText, TextSources } from "../text/open-text.ts";
import { type AddedTokens, addTokens } from "./added-tokens.ts";
import type { TrainEvent } from "./events.ts";
import { machineMemory } from "./machine-memory.ts";
import { makeTrainable, type Trainable } from "./session.ts";

export interface TrainableModel extends Trainable {
  readonly model: OpenedModel;
  readonly modelHash: string;
  /** The tokenizer that --add-tokens made. */
  readonly added?: AddedTokens;
  free(): Promise<void>;
}

/** Opens the model and makes trainable what the method trains. */
export async function openTrainable(
  backend: Backend,
  options: TrainOptions,
  emit: (event: TrainEvent) => void = () => {},
): Promise<TrainableModel> {
  const path = locateModel(options.model);
  const full = options.method === "full";
  const quantize = options.method === "qlora" ? quantizeOnArrival(backend, options.quantType) : undefined;
  const initial = options.initAdapter === undefined ? undefined : await readAdapter(options.initAdapter);
  const added = options.addTokens === undefined ? undefined : await addTokens(path, options.addTokens);
  if (added) {
    const had = added.known > 0 ? ` (${added.known} others it has already)` : "";
    emit({ type: "info", message: `${added.added.length} tokens are added to the tokenizer${had}` });
  }
  const model = await openModel(backend, path, {
    train: full,
    quantize,
    text: textOf(options, added),
    vocabularyOf: initial,
    tell: (message) => emit({ type: "warning", message }),
  });
  try {
    const modelHash = await hashModelFolder(model.folder);
    const { parameters, adapter } = makeTrainable(
      model.loaded,
      { ...options, trainsTables: added !== undefined },
      {
        initial,
        baseModel: options.model,
      },
    );
    return {
      model,
      modelHash,
      parameters,
      adapter,
      added,
      async free() {
        adapter?.free();
        await model.close();
        await added?.free();
      },
    };
  } catch (error) {
    await model.close();
    await added?.free();
    throw error;
  }
}

/** What decides how a run's rows are tokenised and rendered, besides the model's folder. */
export function textOf(options: TrainOptions, added?: AddedTokens): Omit<TextSources, "model"> {
  const { initAdapter, chatTemplate, eosToken, padToken } = options;
  return { adapter: initAdapter, extended: added?.folder, chatTemplate, eosToken, padToken };
}

export interface TrainingData {
  readonly train: readonly Sample[];
  readonly evaluation: readonly Sample[];
  readonly report: DatasetReport;
  readonly evalReport?: DatasetReport;
}

/** Reads and renders the data; warns of what would make a run disappoint; refuses what would make it pointless. */
export async function loadTrainingData(
  { tokenizer, template }: Pick<OpenedText, "tokenizer" | "template">,
  options: TrainOptions,
  emit: (event: TrainEvent) => void,
): Promise<TrainingData> {
  const load = (path: string): Promise<Dataset> =>
    loadDataset(path, {
      tokenizer,
      template,
      trainOn: options.trainOn,
      sequenceLength: options.sequenceLength,
      overLength: options.overLength,
      ...sampleCache((message) => emit({ type: "warning", message })),
    });
  const main = await load(options.data);
  refuseWithoutTargets(main.report);
  tellOfData(main.report, emit);
  if (options.evalData !== undefined) {
    const evaluation = await load(options.evalData);
    refuseWithoutTargets(evaluation.report);
    tellOfData(evaluation.report, emit);
    return {
      train: main.samples,
      evaluation: evaluation.samples,
      report: main.report,
      evalReport: evaluation.report,
    };
  }
  if (options.evalFraction !== undefined) {
    const split = splitEval(main.samples, options.evalFraction, options.seed);
    return { ...split, report: main.report };
  }
  return { train: main.samples, evaluation: [], report: main.report };
}

/** Warns of what a reader of the results should know about the rows. */
export function tellOfData(report: DatasetReport, emit: (event: TrainEvent) => void): void {
  const warn = (message: string) => emit({ type: "warning", message: `${report.file}: ${message}` });
  const { rows } = report;
  if (report.dropped > 0)
    warn(
      `${report.dropped} of ${rows} rows are longer than ${report.sequenceLength} tokens and were dropped.`,
    );
  if (report.truncated > 0)
    warn(`${report.truncated} of ${rows} rows are longer than ${report.sequenceLength} tokens and were cut.`);
  if (report.withoutTargets > 0)
    warn(`${report.withoutTargets} of ${rows} rows have no target token and were left out.`);
  if (report.withoutEos > 0) {
    warn(
      `${report.withoutEos} of ${report.samples} samples never train the end-of-text token; a model trained on them may not stop.`,
    );
  }
  if (report.promptDisagrees > 0) {
    warn(
      `in ${report.promptDisagrees} conversations the chat template prompts for an answer with other text than precedes it in training.`,
    );
  }
  if (report.droppedContent.samples > 0) {
    warn(
      `the chat template leaves out a part of ${report.droppedContent.samples} conversations: ${report.droppedContent.shown.join("; ")}.`,
    );
  }
  if (Object.keys(report.ignoredKeys).length > 0)
    warn(`keys that nothing reads were ignored: ${ignoredKeysText(report.ignoredKeys)}.`);
}

/**
 * Where tokenised data is kept between runs: LOWRANK_CACHE, or lowrank's folder in the user's cache; undefined for a user
 * without a home. An empty variable is none, and the XDG rules say the same of a relative path.
 */
export function cacheFolder(): string | undefined {
  const { LOWRANK_CACHE, XDG_CACHE_HOME } = process.env;
  if (LOWRANK_CACHE) return LOWRANK_CACHE;
  if (XDG_CACHE_HOME && isAbsolute(XDG_CACHE_HOME)) return join(XDG_CACHE_HOME, "lowrank");
  try {
    return join(homedir(), ".cache", "lowrank");
  } catch {
    return undefined;
  }
}

/** The cache saves time and nothing else: what is wrong with it is told, and the data is made anew. */
export function sampleCache(
  warn?: (message: string) => void,
): Pick<DatasetOptions, "cacheFolder" | "onCacheProblem"> {
  const folder = cacheFolder();
  if (folder === undefined) return {};
  const onCacheProblem = (problem: string) =>
    warn?.(`tokenised data is not kept for the next run: ${problem}`);
  return { cacheFolder: join(folder, "samples"), onCacheProblem };
}

/**
 * Where the optimizer's state lives: in the device's memory, or with --paged what is beyond the budget in a file, where
 * the device's memory is the machine's, else in the machine's memory.
 */
export function stateMemoryOf(
  backend: Backend,
  { paged, pagedBudget }: { readonly paged: boolean; readonly pagedBudget?: number },
  folder: string,
): StateMemory {
  if (!paged) return residentState(backend);
  if (backend.paging) return pagedState(backend, backend.paging, { folder, budgetBytes: pagedBudget });
  return hostState(backend, { budgetBytes: pagedBudget ?? 0 });
}

/** Whoever trains over 4-bit weights is short of memory: beyond this, activations are recomputed, for about half a step more. */
const kept4BitBytes = 2 * 2 ** 30;

/** Whether to recompute activations: as asked, or when keeping them would take more than the machine has left. */
export function chooseCheckpointing(
  asked: "auto" | "on" | "off",
  backend: Backend,
  keptBytes: number,
): boolean {
  if (asked !== "auto") return asked === "on";
  if (backend.ledger().live.scales > 0 && keptBytes > kept4BitBytes) return true;
  // On a CPU the device's memory is the machine's, which others use too, and a control group may allow less of it.
  const available = backend.paging ? 0.8 * backend.paging.availableBytes() : Number.POSITIVE_INFINITY;
  return backend.liveBytes + keptBytes > Math.min(0.6 * machineMemory().bytes, backend.liveBytes + available);
}
