// What a run is made of before its first step: model with what trains, data as samples, optimizer. Messages about
// the data are emitted here, and a run that could teach nothing is refused here.

import type { Backend } from "../backend/backend.ts";
import type { TrainOptions } from "../config/train-options.ts";
import { sampleCache } from "../data/cache-folder.node.ts";
import { loadDataset, refuseWithoutTargets } from "../data/dataset.node.ts";
import { type Dataset, type DatasetReport, warningsOf } from "../data/dataset-report.ts";
import { loadPrompts, type PromptRow } from "../data/prompts.node.ts";
import type { Sample } from "../data/render.ts";
import { splitEval } from "../data/split-eval.ts";
import { locateModel } from "../formats/locate-model.ts";
import { hashModelFolder } from "../formats/model-hash.ts";
import { readAdapter } from "../formats/peft.ts";
import { type OpenedModel, openModel } from "../models/open-model.ts";
import { quantizeOnArrival } from "../models/quantized-weights.ts";
import { objectives } from "../objectives/index.ts";
import { makeTrainable, type Trainable } from "../session/trainable.ts";
import type { OpenedText, TextSources } from "../text/open-text.ts";
import { type AddedTokens, addTokens } from "./added-tokens.ts";
import type { TrainEvent } from "./events.ts";

export interface TrainableModel extends Trainable, AsyncDisposable {
  readonly model: OpenedModel;
  readonly modelHash: string;
  /** The tokenizer that --add-tokens made. */
  readonly added?: AddedTokens;
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
    await adapter?.initialize();
    return {
      model,
      modelHash,
      parameters,
      adapter,
      added,
      async [Symbol.asyncDispose]() {
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
  /** Where the objective learns from completions that the model writes; `train` then has the prompts alone. */
  readonly prompts?: readonly PromptRow[];
}

/** Reads and renders the data; refuses what would make a run pointless. What else speaks against it the preflight tells. */
export async function loadTrainingData(
  { tokenizer, template }: Pick<OpenedText, "tokenizer" | "template">,
  options: TrainOptions,
  emit: (event: TrainEvent) => void,
): Promise<TrainingData> {
  if (objectives[options.objective].rows === "prompts") return loadPromptData(tokenizer, template, options);
  const load = (path: string): Promise<Dataset> =>
    loadDataset(path, {
      tokenizer,
      template,
      trainOn: options.trainOn,
      rows: objectives[options.objective].rows,
      sequenceLength: options.sequenceLength,
      overLength: options.overLength,
      ...sampleCache((message) => emit({ type: "warning", message })),
    });
  const main = await load(options.data);
  refuseWithoutTargets(main.report);
  if (options.evalData !== undefined) {
    const evaluation = await load(options.evalData);
    refuseWithoutTargets(evaluation.report);
    for (const message of warningsOf(evaluation.report)) emit({ type: "warning", message });
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

async function loadPromptData(
  tokenizer: OpenedText["tokenizer"],
  template: OpenedText["template"],
  options: TrainOptions,
): Promise<TrainingData> {
  const { data, sequenceLength, overLength, maxNewTokens = 0 } = options;
  const { rows, report } = await loadPrompts(data, {
    ...{ tokenizer, template, sequenceLength, overLength, maxNewTokens },
  });
  const train = rows.map(({ id, ids }): Sample => {
    return { ids: Int32Array.from(ids), targetMask: new Uint8Array(ids.length), rowId: id };
  });
  return { train, evaluation: [], report, prompts: rows };
}

/** Most tokens of a sample, or a pack: sequences of a pair are within the sequence length each. */
export function packTokens({ objective, sequenceLength }: TrainOptions): number {
  return objectives[objective].rows === "pairs" ? 2 * sequenceLength : sequenceLength;
}
