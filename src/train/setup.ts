// What a run is made of before its first step: the model with what trains. Its data: training-data.ts.

import type { Backend } from "../backend/backend.ts";
import type { TrainOptions } from "../config/train-options.ts";
import { locateModel } from "../formats/locate-model.ts";
import { hashModelFolder } from "../formats/model-hash.ts";
import { readAdapter } from "../formats/peft.ts";
import { type OpenedModel, openModel } from "../models/open-model.ts";
import { quantizeOnArrival } from "../models/quantized-weights.ts";
import { objectives } from "../objectives/index.ts";
import { makeTrainable, type Trainable } from "../session/trainable.ts";
import type { TextSources } from "../text/open-text.ts";
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

/** Most tokens of a sample, or a pack: sequences of a pair are within the sequence length each. */
export function packTokens({ objective, sequenceLength }: TrainOptions): number {
  return objectives[objective].rows === "pairs" ? 2 * sequenceLength : sequenceLength;
}
