// The shape of a model to plan for: a bare config.json, or a folder that has one. No weights are read. Trainable
// parameters follow from the shapes of the linear layers alone.

import { type StoredForm, storedForm } from "../formats/bnb-config.ts";
import { openFile } from "../formats/disk.ts";
import { type JsonObject, readJsonObject } from "../formats/json.ts";
import { locateModel } from "../formats/locate-model.ts";
import { matchTargets, newAdapterConfig } from "../formats/peft.ts";
import { adaptableLayers, allLinear, factorCount } from "../models/adaptable-layers.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { weightSpecs } from "../models/decoder-weights.ts";
import { readModelConfig } from "../models/index.ts";
import { idleParameters, isQuantizable } from "../models/mixture-size.ts";
import { storedDType } from "../models/stored-dtype.ts";
import { lastParts, parseTargets, shortName } from "../models/target-names.ts";
import type { DType } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";

const configCapBytes = 16 << 20;

export interface ModelShape {
  readonly config: DecoderConfig;
  readonly parameters: number;
  /** In the linear layers of the blocks: what 4-bit weights replace. */
  readonly linearParameters: number;
  /** That one token meets: of a mixture, without the experts that it does not go to. */
  readonly activeParameters: number;
  /** dtype of the published weights, as config.json states it. */
  readonly storedDType: DType;
  readonly storedForm?: StoredForm;
}

/** Reads the shape of a model folder or of a bare config.json. */
export async function readShape(model: string): Promise<ModelShape> {
  const path = locateModel(model);
  const source = await openFile(/\.json$/i.test(path) ? path : `${path}/config.json`);
  let json: JsonObject;
  try {
    json = await readJsonObject(source, configCapBytes);
  } finally {
    await source.close();
  }
  const config = readModelConfig(json);
  const specs = weightSpecs(config);
  const count = (of: typeof specs) => of.reduce((sum, spec) => sum + elementCount(spec.shape), 0);
  return {
    config,
    parameters: count(specs),
    linearParameters: count(specs.filter(isQuantizable)),
    activeParameters: count(specs) - idleParameters(config),
    storedDType: storedDType(json),
    storedForm: storedForm(json),
  };
}

/** Parameters of adapters of this rank on these targets: rank * (in + out) for each layer, and each expert. */
export function adapterParameters(config: DecoderConfig, rank: number, targets: string): number {
  const asked = parseTargets(targets, lastParts(adaptableLayers(config).map(({ name }) => name)));
  const layers = (asked === "all-linear" ? allLinear : adaptableLayers)(config);
  const matched = matchTargets(
    newAdapterConfig({ rank, alpha: rank, targets: asked }),
    layers.map(({ name }) => name),
  );
  return layers
    .filter(({ name }) => matched.has(name))
    .reduce((sum, layer) => sum + factorCount(layer, rank), 0);
}

/** Kinds of layers that adapters are counted for: each projection of the model, and the usual sets. */
function targetSets(config: DecoderConfig): string[] {
  const layers = adaptableLayers(config);
  const linears = layers.filter(({ experts, router }) => experts === undefined && !router);
  const short = lastParts(linears.map(({ name }) => name)).map(shortName);
  const pair = short.includes("q") && short.includes("v") ? ["q,v"] : [];
  const experts = linears.length < layers.length ? ["experts"] : [];
  return [...short, ...pair, "attention", ...experts, "all-linear"];
}

export interface TrainableRow {
  readonly targets: string;
  readonly parameters: Readonly<Record<string, number>>;
}

/** Trainable parameters of each set of targets at each rank. */
export function trainableTable(config: DecoderConfig, ranks: readonly number[]): TrainableRow[] {
  return targetSets(config).map((targets) => ({
    targets,
    parameters: Object.fromEntries(ranks.map((rank) => [rank, adapterParameters(config, rank, targets)])),
  }));
}
