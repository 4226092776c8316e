// PEFT adapter folders: adapter_config.json and adapter_model.safetensors. The only place where PEFT's names live:
// everything else speaks of rank, alpha and module paths. What the config means for a model (which layers, which
// scale) is in adapter-targets.ts; shapes against a base model are the caller's to check.
//
// Tensor names: base_model.model.<module path>.lora_A.weight [rank, in], .lora_B.weight [out, rank]; a module saved
// whole keeps its own name behind the prefix. Written and read as peft 0.21 does.

import { decodeToF32, encodeFrom } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { invariant, UserError } from "../util/errors.ts";
import { type AdapterConfig, type ModuleSettings, settingsReader, targetMatcher } from "./adapter-targets.ts";
import type { Folder } from "./byte-source.ts";
import { type JsonObject, jsonText, readJsonObject } from "./json.ts";
import { CONFIG_FILE, parseAdapterConfig, toPeftConfig } from "./peft-config.ts";
import {
  fromSafetensorsDType,
  openSafetensors,
  type SafetensorsFile,
  toSafetensorsDType,
} from "./safetensors.ts";
import type { TensorToWrite } from "./safetensors-writer.ts";

export * from "./adapter-targets.ts";
export { parseAdapterConfig, toPeftConfig } from "./peft-config.ts";

const WEIGHTS_FILE = "adapter_model.safetensors";
const CONFIG_CAP_BYTES = 16 << 20;
const PREFIX = "base_model.model.";

export interface TensorValues {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** The two factors of one module: A [rank, in], B [out, rank]. */
export interface AdapterPair {
  readonly a: TensorValues;
  readonly b: TensorValues;
}

export interface AdapterWeights {
  /** By module path, e.g. "model.layers.0.self_attn.q_proj". */
  readonly modules: ReadonlyMap<string, AdapterPair>;
  /**
   * Whole tensors that take the place of the base model's, by the base model's tensor names: modules saved whole, and
   * the copies of embeddings that PEFT adds on its own.
   */
  readonly replacements: ReadonlyMap<string, TensorValues>;
}

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
    const weights = await readWeights(file);
    return { config, unknownKeys, ...weights, settings: settingsOf(config, weights, file.source.name) };
  } finally {
    await file.close();
  }
}

async function readConfig(folder: Folder): Promise<JsonObject> {
  const source = await folder.open(CONFIG_FILE);
  try {
    return await readJsonObject(source, CONFIG_CAP_BYTES);
  } finally {
    await source.close();
  }
}

async function readWeights(file: SafetensorsFile): Promise<AdapterWeights> {
  const factors = new Map<string, { a?: TensorValues; b?: TensorValues }>();
  const replacements = new Map<string, TensorValues>();
  for (const key of file.tensors.keys()) {
    const role = roleOf(key, file.source.name);
    if (role.kind === "skip") continue;
    const values = await readValues(file, key);
    if (role.kind === "replacement") {
      replacements.set(role.name, values);
      continue;
    }
    const pair = factors.get(role.module) ?? {};
    if (pair[role.kind]) {
      throw new UserError(
        `${file.source.name}: it has two ${role.kind.toUpperCase()} factors for ${role.module}.`,
      );
    }
    pair[role.kind] = values;
    factors.set(role.module, pair);
  }
  const modules = new Map<string, AdapterPair>();
  for (const module of [...factors.keys()].sort(byLayer)) {
    const { a, b } = factors.get(module)!;
    if (!a || !b) {
      throw new UserError(
        `${file.source.name}: ${module} has only ${a ? "lora_A" : "lora_B"}; expected both factors.`,
      );
    }
    modules.set(module, { a, b });
  }
  return { modules, replacements };
}

type Role =
  | { readonly kind: "a" | "b"; readonly module: string }
  | { readonly kind: "replacement"; readonly name: string }
  | { readonly kind: "skip" };

/** What a tensor of the file is, by its name. */
function roleOf(key: string, file: string): Role {
  const name = key.startsWith(PREFIX) ? key.slice(PREFIX.length) : key;
  // A raw state dict still holds the adapter's name ("default") in the middle.
  const factor = /^(.+)\.lora_([AB])(?:\.[^.]+)?\.weight$/.exec(name);
  if (factor) return { kind: factor[2] === "A" ? "a" : "b", module: factor[1]! };
  if (/\.lora_embedding_[AB]/.test(name)) {
    throw new UserError(`${file}: ${key}: adapters of embeddings are not supported; only of linear layers.`);
  }
  if (/\.lora_magnitude_vector/.test(name))
    throw new UserError(`${file}: ${key}: DoRA adapters are not supported.`);
  if (/\.token_adapter\./.test(name))
    throw new UserError(`${file}: ${key}: trainable tokens are not supported.`);
  if (/\.lora_\w+/.test(name))
    throw new UserError(`${file}: ${key}: this kind of adapter tensor is not supported.`);
  if (/\.original_module\./.test(name)) return { kind: "skip" };
  const whole = /^(.+?)(?:\.base_layer|\.modules_to_save(?:\.[^.]+)?)?\.(weight|bias)$/.exec(name);
  if (!whole)
    throw new UserError(`${file}: ${key}: expected ...lora_A.weight, ...lora_B.weight or a whole weight.`);
  return { kind: "replacement", name: `${whole[1]}.${whole[2]}` };
}

async function readValues(file: SafetensorsFile, key: string): Promise<TensorValues> {
  const { dtype: fileDType, shape } = file.tensors.get(key)!;
  const dtype = fromSafetensorsDType(fileDType);
  if (dtype !== "f32" && dtype !== "bf16" && dtype !== "f16" && dtype !== "f64") {
    throw new UserError(
      `${file.source.name}: ${key} has dtype ${fileDType}; expected F32, BF16, F16 or F64.`,
    );
  }
  return { shape, values: decodeToF32(await file.readTensor(key), dtype) };
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
  for (const [module, { a, b }] of weights.modules) {
    const { rank } = read(module);
    if (!targeted(module)) {
      throw new UserError(
        `${file}: it holds factors for ${module}, which ${CONFIG_FILE} does not target; the two files are not of the same adapter.`,
      );
    }
    if (a.shape.length !== 2 || b.shape.length !== 2 || a.shape[0] !== rank || b.shape[1] !== rank) {
      throw new UserError(
        `${file}: ${module}: ${CONFIG_FILE} gives rank ${rank}; expected A [${rank}, in] and B [out, ${rank}], found [${a.shape.join(", ")}] and [${b.shape.join(", ")}].`,
      );
    }
    settings.set(module, read(module));
  }
  return settings;
}

export interface WriteAdapterOptions {
  readonly dtype?: "f32" | "bf16" | "f16";
}

/** Writes an adapter folder that PeftModel.from_pretrained loads; the config goes last, so a folder with one is whole. */
export async function writeAdapter(
  path: string,
  config: AdapterConfig,
  weights: Pick<AdapterWeights, "modules"> & Partial<AdapterWeights>,
  options: WriteAdapterOptions = {},
): Promise<void> {
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
    tensors.push({ name: `${PREFIX}${name}`, dtype: toSafetensorsDType(dtype), shape, data });
  };
  for (const [module, { a, b }] of weights.modules) {
    const { rank } = settings(module);
    invariant(a.shape[0] === rank && b.shape[1] === rank, `${module}: its factors are not of rank ${rank}`);
    add(`${module}.lora_A.weight`, a);
    add(`${module}.lora_B.weight`, b);
  }
  for (const [name, values] of weights.replacements ?? []) add(name, values);
  const peftConfig = toPeftConfig(namedTargets(config, [...weights.modules.keys()]));
  await writeSafetensors(`${path}/${WEIGHTS_FILE}`, tensors);
  await writeFileAtomic(`${path}/${CONFIG_FILE}`, jsonText(peftConfig));
}

/** "all-linear" spelt out as the layers' own names, which serving engines read where they do not know the word. */
function namedTargets(config: AdapterConfig, modules: readonly string[]): AdapterConfig {
  if (typeof config.targets !== "string" || config.targets.toLowerCase() !== "all-linear") return config;
  return {
    ...config,
    targets: [...new Set(modules.map((name) => name.slice(name.lastIndexOf(".") + 1)))].sort(),
  };
}

/** model.layers.2 before model.layers.10. */
function byLayer(a: string, b: string): number {
  return a.localeCompare(b, "en", { numeric: true });
}
