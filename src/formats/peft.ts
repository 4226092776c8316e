// PEFT adapter folders: adapter_config.json and adapter_model.safetensors. The only place where PEFT's names live:
// everything else speaks of rank, alpha and module paths. What the config means for a model (which layers, which
// scale) is in adapter-targets.ts; shapes against a base model are the caller's to check.
//
// Tensor names, after base_model.model. and the module's path: .lora_A.weight [rank, in], .lora_B.weight [out, rank];
// .lora_embedding_A [rank, V] and .lora_embedding_B [C, rank]; a module saved whole keeps its own names. Written and read
// as peft 0.21 does; which of them is what is adapter-tensors.ts's to say.

import { adapterKind } from "../nn/adapter-kinds/index.ts";
import { encodeFrom } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { invariant, UserError } from "../util/errors.ts";
import { type AdapterConfig, type ModuleSettings, settingsReader, targetMatcher } from "./adapter-targets.ts";
import { type AdapterWeights, readAdapterTensors, type TensorValues } from "./adapter-tensors.ts";
import type { Folder } from "./byte-source.ts";
import {
  isPeftParameter,
  joinedExperts,
  parameterName,
  unwrappedExperts,
  withExpertCount,
  wrappedName,
} from "./expert-adapters.ts";
import { type JsonObject, jsonText, readJsonObject } from "./json.ts";
import { CONFIG_FILE, notMlx, parseAdapterConfig, toPeftConfig } from "./peft-config.ts";
import { openSafetensors, toSafetensorsDType } from "./safetensors.ts";
import type { TensorToWrite } from "./safetensors-writer.ts";

export * from "./adapter-targets.ts";
export { parseAdapterConfig, toPeftConfig } from "./peft-config.ts";

const WEIGHTS_FILE = "adapter_model.safetensors";
const CONFIG_CAP_BYTES = 16 << 20;
const PREFIX = "base_model.model.";

export type { AdapterPair, AdapterWeights, TensorValues } from "./adapter-tensors.ts";

export interface LoadedAdapter extends AdapterWeights {
  readonly config: AdapterConfig;
  readonly settings: ReadonlyMap<string, ModuleSettings>;
  /** Keys of adapter_config.json that this version does not know and that hold something. */
  readonly unknownKeys: readonly string[];
}

/** Reads an adapter folder. UserError says what is missing, broken or not supported. */
export async function readAdapter(from: string | Folder): Promise<LoadedAdapter> {
  const folder = typeof from === "string" ? await (await import("./disk.ts")).openFolder(from) : from;
  const names = new Set(await folder.list());
  if (names.has("adapters.safetensors") && !names.has(WEIGHTS_FILE))
    throw new UserError(`${folder.path}: ${notMlx}`);
  if (!names.has(CONFIG_FILE)) {
    const instead = names.has("config.json") ? " This is a model folder, not an adapter." : "";
    throw new UserError(`${folder.path}: there is no ${CONFIG_FILE}.${instead}`);
  }
  const { config, unknownKeys } = parseAdapterConfig(
    await readConfig(folder),
    `${folder.path}/${CONFIG_FILE}`,
  );
  if (!names.has(WEIGHTS_FILE)) {
    const instead = names.has("adapter_model.bin")
      ? " Only adapter_model.bin is there, a pickle that can run code when opened; save the adapter again with safe_serialization=True."
      : "";
    throw new UserError(`${folder.path}: there is no ${WEIGHTS_FILE}.${instead}`);
  }
  const file = await openSafetensors(await folder.open(WEIGHTS_FILE));
  try {
    const read = await readAdapterTensors(file, config);
    const rankOf = settingsReader(config);
    const modules = new Map(
      [...unwrappedExperts(read.modules, config, file.source.name)].map(([module, pair]) => [
        module,
        withExpertCount(module, pair, rankOf(module).rank),
      ]),
    );
    const weights = { ...read, modules };
    // Rules of the configuration speak of the modules as the file names them.
    const settings = settingsOf(config, weights, file.source.name);
    const joined = joinedExperts(modules, settings, config, file.source.name);
    return {
      ...{ config: joined.config, unknownKeys, ...inTower({ ...weights, modules: joined.modules }) },
      settings: renamed(joined.settings, moduleInTower),
    };
  } finally {
    await file.close();
  }
}

/** Modules of the text tower of a larger model by the names that the tower has by itself. */
function inTower({ modules, replacements, baseTensors }: AdapterWeights): AdapterWeights {
  return {
    modules: renamed(modules, moduleInTower),
    replacements: renamed(replacements, moduleInTower),
    baseTensors: baseTensors && renamed(baseTensors, moduleInTower),
  };
}

/** A module's (or its tensor's) name in any of the models that hold a text tower as the tower by itself has it. */
function moduleInTower(name: string): string {
  return name
    .replace(/^(?:model\.language_model\.|language_model\.model\.)/, "model.")
    .replace(/^language_model\.(?=lm_head\b)/, "");
}

function renamed<T>(map: ReadonlyMap<string, T>, to: (name: string) => string): Map<string, T> {
  return new Map([...map].map(([name, value]) => [to(name), value]));
}

async function readConfig(folder: Folder): Promise<JsonObject> {
  const source = await folder.open(CONFIG_FILE);
  try {
    return await readJsonObject(source, CONFIG_CAP_BYTES);
  } finally {
    await source.close();
  }
}

/** Rank and scale of each module in the file, with the file held to the config. */
function settingsOf(
  config: AdapterConfig,
  weights: AdapterWeights,
  file: string,
): Map<string, ModuleSettings> {
  const targeted = targetMatcher(config);
  const read = settingsReader(config);
  const settings = new Map<string, ModuleSettings>();
  for (const [module, { a, b, experts = 1 }] of weights.modules) {
    const { rank } = read(module);
    // A tie brings the other table in, though no target names it.
    if (!targeted(module) && !config.ensureWeightTying) {
      throw new UserError(
        `${file}: it holds factors for ${module}, which ${CONFIG_FILE} does not target; the two files are not of the same adapter.`,
      );
    }
    const ranks = experts * rank;
    if (a.shape.length !== 2 || b.shape.length !== 2 || a.shape[0] !== ranks || b.shape[1] !== ranks) {
      throw new UserError(
        `${file}: ${module}: ${CONFIG_FILE} gives rank ${rank}; expected A [${ranks}, in] and B [out, ${ranks}], found [${a.shape.join(", ")}] and [${b.shape.join(", ")}].`,
      );
    }
    settings.set(module, read(module));
  }
  return settings;
}

export interface WriteAdapterOptions {
  readonly dtype?: "f32" | "bf16" | "f16";
  /** A module's name in the model that the adapter is for; its own when absent. */
  readonly moduleName?: (name: string) => string;
}

/** Writes an adapter folder that PeftModel.from_pretrained loads; the config goes last, so a folder with one is whole. */
export async function writeAdapter(
  path: string,
  config: AdapterConfig,
  weights: Pick<AdapterWeights, "modules"> & Partial<AdapterWeights>,
  options: WriteAdapterOptions = {},
): Promise<void> {
  const { moduleName = (name) => name } = options;
  const { writeSafetensors } = await import("./safetensors-writer.ts");
  const { writeFileAtomic } = await import("./atomic-file.ts");
  const dtype = options.dtype ?? "f32";
  const settings = settingsReader(config);
  const tensors: TensorToWrite[] = [];
  const add = (name: string, { shape, values }: TensorValues) => {
    invariant(
      values.length === elementCount(shape),
      `${name}: ${values.length} values for [${shape.join(", ")}]`,
    );
    const data = () => encodeFrom(values, dtype);
    tensors.push({ name: `${PREFIX}${moduleName(name)}`, dtype: toSafetensorsDType(dtype), shape, data });
  };
  const { tensors: own } = adapterKind(config.kind);
  for (const [module, { a, b, embedding, experts = 1, tensors: values }] of weights.modules) {
    const rank = experts * settings(module).rank;
    invariant(a.shape[0] === rank && b.shape[1] === rank, `${module}: its factors are not of rank ${rank}`);
    const name = wrappedName(module, weights.modules);
    add(embedding ? `${name}.lora_embedding_A` : `${name}.lora_A.weight`, a);
    add(embedding ? `${name}.lora_embedding_B` : `${name}.lora_B.weight`, b);
    for (const { name, peftName } of own) {
      const found = values?.get(name);
      invariant(found, `${module} has no ${name}`);
      add(`${module}.${peftName}`, found);
    }
  }
  for (const [name, values] of weights.replacements ?? [])
    add(name.endsWith(".bias") ? insideLayer(name, weights.modules) : name, values);
  for (const [name, values] of weights.baseTensors ?? []) add(insideLayer(name, weights.modules), values);
  const names = [...weights.modules.keys()];
  const peftConfig = toPeftConfig(
    names.some(isPeftParameter)
      ? namedParameters(config, names, moduleName)
      : namedTargets(config, names, moduleName),
  );
  await writeSafetensors(`${path}/${WEIGHTS_FILE}`, tensors);
  await writeFileAtomic(`${path}/${CONFIG_FILE}`, jsonText(peftConfig));
}

/**
 * "all-linear" spelt out as the layers' own names, which serving engines read where they do not know the word. In a larger
 * model these name layers of its other towers too, so the adapted ones are named in full.
 */
function namedTargets(
  config: AdapterConfig,
  modules: readonly string[],
  moduleName: (name: string) => string,
): AdapterConfig {
  const names = modules.map(moduleName);
  if (names.some((name, i) => name !== modules[i])) {
    const { layersToTransform: _, ...rest } = config;
    return { ...rest, layersPattern: [], excludeModules: undefined, targets: names };
  }
  if (typeof config.targets !== "string" || config.targets.toLowerCase() !== "all-linear") return config;
  return {
    ...config,
    targets: [...new Set(modules.map(lastName))].sort(),
  };
}

/** The last part of a module's name, and the one before it where that says which of several it is. */
const lastName = (name: string): string => /\.(router\.proj|[^.]+)$/.exec(name)?.[1] ?? name;

/** As namedTargets, with experts and routers among the parameters, which no name of a module reaches. */
function namedParameters(
  config: AdapterConfig,
  modules: readonly string[],
  moduleName: (name: string) => string,
): AdapterConfig {
  const [parameters, linears] = [true, false].map((of) =>
    modules.filter((name) => isPeftParameter(name) === of),
  );
  // Names of whole layers where not all layers are adapted, or where a rule chose among them.
  const inFull =
    config.layersToTransform !== undefined ||
    config.excludeModules !== undefined ||
    (typeof config.targets === "string" && config.targets.toLowerCase() !== "all-linear") ||
    (typeof config.targets !== "string" && config.targets.some((target) => target.startsWith("model."))) ||
    modules.some((name) => moduleName(name) !== name);
  const end = (name: string) => /\.((?:mlp\.)?experts\.\w+|mlp\.\w+\.weight)$/.exec(name)?.[1] ?? name;
  const named = parameters!.map((name) => parameterName(moduleName(name)));
  const { layersToTransform: _, ...rest } = config;
  return {
    ...rest,
    layersPattern: [],
    excludeModules: undefined,
    targets: inFull ? linears!.map(moduleName) : [...new Set(linears!.map(lastName))].sort(),
    targetParameters: inFull ? named : [...new Set(named.map(end))].sort(),
  };
}

/** The name of a base's own tensor in a PEFT model: inside the LoRA layer, where its module has become one. */
function insideLayer(name: string, modules: AdapterWeights["modules"]): string {
  const [, module, kind] = /^(.*)\.(\w+)$/.exec(name)!;
  return modules.has(module!) ? `${module}.base_layer.${kind}` : name;
}
