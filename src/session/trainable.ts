// What a recipe makes trainable on a loaded model: the weights themselves, or a fresh or given adapter on them. Not here:
// stepping (session.ts).

import type { Method } from "../config/fields.ts";
import { type AdapterConfig, type LoadedAdapter, newAdapterConfig } from "../formats/peft.ts";
import { adaptableLayers, allLinear } from "../models/adaptable-layers.ts";
import { attachLoadedAdapter, attachNewAdapter, type DecoderAdapter } from "../models/adapter.ts";
import { embeddingName } from "../models/decoder-weights.ts";
import type { LoadedDecoder } from "../models/load-model.ts";
import { wholeTables } from "../models/new-adapter.ts";
import { lastParts, parseExcluded, parseTargets } from "../models/target-names.ts";
import type { AdapterKindName } from "../nn/adapter-kinds/index.ts";
import { loraPlusGroups } from "../nn/lora-plus.ts";
import type { FlatParameters } from "../nn/parameters.ts";
import type { AdapterInit } from "../nn/pissa.ts";
import type { ObjectiveName } from "../objectives/index.ts";
import type { ObjectiveOptions } from "../objectives/objective.ts";
import type { OptimizerName } from "../optim/index.ts";
import type { OptimizerOptions } from "../optim/optimizer.ts";
import { BugError, UserError } from "../util/errors.ts";

/** What trains, and what updates it: the part of a run's recipe that a session needs. */
export interface SessionRecipe extends Partial<OptimizerOptions>, ObjectiveOptions {
  readonly method: Method;
  /** Mean cross-entropy when absent. */
  readonly objective?: ObjectiveName;
  /** The kind of adapter; LoRA when absent. */
  readonly adapter?: AdapterKindName;
  readonly rank: number;
  readonly alpha: number;
  readonly dropout?: number;
  readonly rslora?: boolean;
  /** How the factors begin; as LoRA's when absent. */
  readonly init?: AdapterInit;
  /** B's learning rate over A's; 1 when absent. */
  readonly loraPlusRatio?: number;
  /** As --targets. */
  readonly targets: string;
  /** As --exclude. */
  readonly exclude?: string;
  /** Numbers of the layers that are adapted; all when absent. */
  readonly layers?: readonly number[];
  readonly rankPattern?: Readonly<Record<string, number>>;
  readonly alphaPattern?: Readonly<Record<string, number>>;
  /** Modules that train whole beside the adapter. */
  readonly modulesToSave?: readonly string[];
  /** Train embedding and head whole beside the adapter, as added tokens need. */
  readonly trainsTables?: boolean;
  readonly optimizer: OptimizerName;
  /** Noise on the embeddings in training (NEFTune); none when absent. */
  readonly neftuneAlpha?: number;
  readonly seed: number;
}

/** How what trains begins. */
export interface TrainableStart {
  /** Continue from these factors in place of fresh ones. */
  readonly initial?: LoadedAdapter;
  /** Named in the adapter's configuration. */
  readonly baseModel?: string;
}

/** What a recipe makes trainable on a loaded model. */
export interface Trainable {
  /** Flat. */
  readonly parameters: FlatParameters;
  /** Absent for full fine-tuning. */
  readonly adapter?: DecoderAdapter;
}

/** Makes trainable what the recipe trains: the weights themselves, or a fresh or given adapter on them. */
export function makeTrainable(
  loaded: LoadedDecoder,
  recipe: Omit<SessionRecipe, "optimizer">,
  { initial, baseModel }: TrainableStart = {},
): Trainable {
  if (recipe.method === "full") {
    if (!loaded.trained) throw new BugError("full fine-tuning of a model that was not loaded for it");
    return { parameters: loaded.trained };
  }
  const groups = {
    groupOf: recipe.loraPlusRatio === undefined ? undefined : loraPlusGroups(recipe.loraPlusRatio),
  };
  const adapter = initial
    ? attachLoadedAdapter(loaded, initial, { trains: true, dropout: recipe.dropout, ...groups })
    : attachNewAdapter(loaded, adapterConfigOf(loaded, recipe, baseModel), recipe.seed, {
        ...groups,
        init: recipe.init,
      });
  if (recipe.loraPlusRatio !== undefined && adapter.flat.get(`${embeddingName}.lora_a`)) {
    adapter.free();
    throw new UserError(
      "--lora-plus-ratio does not go with an adapted embedding, which PEFT trains at a rate of its own; leave embed_tokens out of the targets, or the ratio",
    );
  }
  return { parameters: adapter.flat, adapter };
}

/** A fresh adapter's configuration, in PEFT's terms. */
function adapterConfigOf(
  loaded: LoadedDecoder,
  recipe: Omit<SessionRecipe, "optimizer">,
  baseModel: string | undefined,
): AdapterConfig {
  const { adapter: kind, rank, alpha, dropout, rslora, rankPattern, alphaPattern } = recipe;
  const { config } = loaded.decoder;
  const names = lastParts(adaptableLayers(config).map(({ name }) => name));
  const outside = recipe.layers?.find((layer) => layer >= config.layers.length);
  if (outside !== undefined) {
    throw new UserError(
      `--layers names layer ${outside}, and this model has ${config.layers.length}: 0 to ${config.layers.length - 1}`,
    );
  }
  let targets: AdapterConfig["targets"] = parseTargets(recipe.targets, names);
  if (recipe.layers && typeof targets === "string") {
    if (targets !== "all-linear")
      throw new UserError(
        "--layers does not go with --targets /regex/; write the layers into the expression",
      );
    // PEFT heeds layers beside a list of names only.
    targets = lastParts(allLinear(config).map(({ name }) => name));
  }
  const tables = recipe.trainsTables ? wholeTables(loaded) : undefined;
  return newAdapterConfig({
    ...{ kind, rank, alpha, dropout, rslora, targets, rankPattern, alphaPattern, baseModel },
    excludeModules: recipe.exclude === undefined ? undefined : parseExcluded(recipe.exclude, names),
    layersToTransform: recipe.layers,
    ensureWeightTying: tables?.ensureWeightTying,
    modulesToSave: [...new Set([...(tables?.modulesToSave ?? []), ...(recipe.modulesToSave ?? [])])],
  });
}
