// adapter_config.json of PEFT to and from AdapterConfig. What we cannot honour is refused with the reason, because an
// adapter read with a feature dropped is another adapter. Keys: peft 0.21, LoraConfig. Part of peft.ts.

import { type AdapterKindName, adapterKind, adapterKindNames } from "../nn/adapter-kinds/index.ts";
import { UserError } from "../util/errors.ts";
import type { AdapterConfig } from "./adapter-targets.ts";
import { isJsonObject, type JsonObject } from "./json.ts";

export const CONFIG_FILE = "adapter_config.json";

/** The version whose files ours are compared with. */
const PEFT_VERSION = "0.21.2";

const RANK_CAP = 65_536;

/** Begins with what the folder is, so that it reads after its path. */
export const notMlx =
  "this is an adapter in MLX's format (mlx-lm writes adapters.safetensors), and lowrank reads PEFT's. Fuse it with its base (mlx_lm.fuse --model BASE --adapter-path THIS --save-path OUT) and give OUT with --model, or train it in PEFT's layout.";

/** Keys whose mere presence with a value changes what the adapter computes, and why we stop. */
const refusedWhenSet: Record<string, string> = {
  fan_in_fan_out: "the weights are stored transposed, as GPT-2's Conv1D does",
  trainable_token_indices: "single rows of the embedding are trained",
  megatron_config: "the layers are Megatron's",
  layer_replication: "the model's layers are repeated",
  lora_bias: "the B factor has a bias",
  use_qalora: "QALoRA pools the inputs in groups",
  use_bdlora: "the factors are block-diagonal",
  arrow_config: "Arrow routes between several adapters",
  kasa_config: "KaSA truncates the base weights and adds singular values",
  monteclora_config: "MonteCLoRA samples the factors",
  alora_invocation_tokens: "aLoRA switches on only after its invocation tokens",
};

/** Initialisations that leave the base model alone; the trained factors then say everything. */
const harmlessInits = new Set(["gaussian", "eva", "orthogonal", "mica", "lora", "true", "false"]);

/** Known keys that do not change what a trained adapter computes. */
const ignoredKeys = new Set([
  "auto_mapping",
  "corda_config",
  "eva_config",
  "inference_mode",
  "loftq_config",
  "lora_ga_config",
  "megatron_core",
  "peft_type",
  "peft_version",
  "qalora_group_size",
  "runtime_config",
  "velora_config",
]);

const readKeys = new Set([
  "alpha_pattern",
  "base_model_name_or_path",
  "bias",
  "ensure_weight_tying",
  "exclude_modules",
  "init_lora_weights",
  "layers_pattern",
  "layers_to_transform",
  "lora_alpha",
  "lora_dropout",
  "modules_to_save",
  "r",
  "rank_pattern",
  "revision",
  "target_modules",
  "target_parameters",
  "task_type",
  "use_rslora",
]);

/** Keys by which a kind of adapter is told. */
const kindKeys = new Set(adapterKindNames.flatMap((name) => Object.keys(adapterKind(name).peftKeys)));

/** The kind whose keys are all set as it says: the one that says most. */
function kindOf(json: JsonObject): AdapterKindName {
  const said = (name: AdapterKindName) => Object.entries(adapterKind(name).peftKeys);
  const fits = adapterKindNames.filter((name) =>
    said(name).every(([key, value]) => isSet(json[key]) === value),
  );
  return fits.reduce((best, name) => (said(name).length > said(best).length ? name : best));
}

/** Every known key, by what becomes of it. */
export const knownPeftKeys = {
  read: [...readKeys, ...kindKeys],
  refused: Object.keys(refusedWhenSet),
  ignored: [...ignoredKeys],
} as const;

export interface ParsedAdapterConfig {
  readonly config: AdapterConfig;
  readonly unknownKeys: readonly string[];
}

/** Reads the JSON of adapter_config.json; `where` begins each UserError. */
export function parseAdapterConfig(json: JsonObject, where = CONFIG_FILE): ParsedAdapterConfig {
  const fail = (message: string): never => {
    throw new UserError(`${where}: ${message}`);
  };
  if (json.peft_type === undefined && ("fine_tune_type" in json || "lora_parameters" in json)) fail(notMlx);
  if (json.peft_type !== "LORA") {
    fail(`peft_type is ${JSON.stringify(json.peft_type) ?? "missing"}; only "LORA" is supported.`);
  }
  for (const [key, reason] of Object.entries(refusedWhenSet)) {
    if (isSet(json[key]))
      fail(`${key} is set: ${reason}, which is not supported. Merge the adapter with PEFT first.`);
  }
  const bias = json.bias ?? "none";
  if (bias !== "none" && bias !== "all" && bias !== "lora_only")
    fail(`bias is ${JSON.stringify(bias)}; expected "none", "all" or "lora_only".`);
  const init = json.init_lora_weights ?? true;
  if (typeof init !== "boolean" && !(typeof init === "string" && harmlessInits.has(init.toLowerCase()))) {
    fail(
      `init_lora_weights is ${JSON.stringify(init)}: such an adapter belongs to changed base weights. Save it with PEFT's path_initial_model_for_weight_conversion, which turns it into a plain one.`,
    );
  }
  const read = readers(json, fail);
  const parameters = read.list("target_parameters");
  const targets = read.names("target_modules") ?? (parameters.length > 0 ? [] : undefined);
  if (targets === undefined || (targets.length === 0 && parameters.length === 0)) {
    fail('target_modules is missing; expected a list of module names, a regular expression or "all-linear".');
  }
  const layers = json.layers_to_transform;
  const config: AdapterConfig = {
    kind: kindOf(json),
    rank: read.number("r", 8, isRank, "a whole number above 0"),
    alpha: read.number("lora_alpha", 8, Number.isFinite, "a number"),
    dropout: read.number("lora_dropout", 0, (p) => p >= 0 && p < 1, "a number from 0 to below 1"),
    rslora: read.boolean("use_rslora"),
    targets: targets!,
    ...(parameters.length > 0 ? { targetParameters: parameters } : {}),
    excludeModules: read.names("exclude_modules"),
    rankPattern: read.pattern("rank_pattern", isRank, "whole numbers above 0"),
    alphaPattern: read.pattern("alpha_pattern", Number.isFinite, "numbers"),
    modulesToSave: read.list("modules_to_save"),
    layersToTransform:
      typeof layers === "number" ? [layers] : (read.layers("layers_to_transform") ?? undefined),
    layersPattern:
      typeof json.layers_pattern === "string" ? [json.layers_pattern] : read.list("layers_pattern"),
    bias: bias as AdapterConfig["bias"],
    ensureWeightTying: read.boolean("ensure_weight_tying"),
    taskType: read.text("task_type") ?? "CAUSAL_LM",
    baseModel: read.text("base_model_name_or_path"),
    revision: read.text("revision"),
    initLoraWeights: init as boolean | string,
  };
  if (typeof config.targets === "string" && config.layersToTransform) {
    fail(
      "layers_to_transform does not go with target_modules given as a string; write the layers into the expression.",
    );
  }
  const unknownKeys = Object.keys(json).filter(
    (key) =>
      !readKeys.has(key) &&
      !kindKeys.has(key) &&
      !ignoredKeys.has(key) &&
      !(key in refusedWhenSet) &&
      isSet(json[key]),
  );
  return { config, unknownKeys };
}

/** The JSON that PEFT reads, with the keys that its older releases know too. */
export function toPeftConfig(config: AdapterConfig): JsonObject {
  return {
    alpha_pattern: config.alphaPattern,
    auto_mapping: null,
    base_model_name_or_path: config.baseModel ?? null,
    bias: config.bias,
    ...(config.ensureWeightTying ? { ensure_weight_tying: true } : {}),
    exclude_modules: config.excludeModules ?? null,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: config.initLoraWeights,
    layer_replication: null,
    layers_pattern: config.layersPattern.length > 0 ? config.layersPattern : null,
    layers_to_transform: config.layersToTransform ?? null,
    loftq_config: {},
    lora_alpha: config.alpha,
    lora_dropout: config.dropout,
    megatron_config: null,
    megatron_core: "megatron.core",
    modules_to_save: config.modulesToSave.length > 0 ? config.modulesToSave : null,
    peft_type: "LORA",
    peft_version: PEFT_VERSION,
    r: config.rank,
    rank_pattern: config.rankPattern,
    revision: config.revision ?? null,
    target_modules: config.targets,
    ...(config.targetParameters?.length ? { target_parameters: config.targetParameters } : {}),
    task_type: config.taskType,
    use_dora: false,
    use_rslora: config.rslora,
    ...adapterKind(config.kind).peftKeys,
  };
}

/** Neither absent, nor false, nor empty. */
function isSet(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === "") return false;
  if (Array.isArray(value)) return value.length > 0;
  return !isJsonObject(value) || Object.keys(value).length > 0;
}

function isRank(value: number): boolean {
  return Number.isInteger(value) && value > 0 && value <= RANK_CAP;
}

/** Typed access to the keys of one object; an absent key and null read the same. */
function readers(json: JsonObject, fail: (message: string) => never) {
  const wrong = (key: string, expected: string): never =>
    fail(`${key} is ${(JSON.stringify(json[key]) ?? "missing").slice(0, 100)}; expected ${expected}.`);
  const isTexts = (value: unknown): value is string[] =>
    Array.isArray(value) && value.every((item) => typeof item === "string" && item !== "");
  const list = (key: string): string[] => {
    const value = json[key] ?? [];
    return isTexts(value) ? value : wrong(key, "a list of names");
  };
  return {
    list,
    number(key: string, otherwise: number, allowed: (value: number) => boolean, expected: string): number {
      const value = json[key] ?? otherwise;
      return typeof value === "number" && allowed(value) ? value : wrong(key, expected);
    },
    boolean(key: string): boolean {
      const value = json[key] ?? false;
      return typeof value === "boolean" ? value : wrong(key, "true or false");
    },
    text(key: string): string | undefined {
      const value = json[key] ?? undefined;
      return value === undefined || typeof value === "string" ? value : wrong(key, "a string");
    },
    names(key: string): string | string[] | undefined {
      const value = json[key] ?? undefined;
      return value === undefined || typeof value === "string" ? value : list(key);
    },
    layers(key: string): number[] | undefined {
      const value = json[key] ?? undefined;
      if (value === undefined) return undefined;
      const fine = Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
      return fine ? (value as number[]) : wrong(key, "a list of layer numbers");
    },
    pattern(key: string, allowed: (value: number) => boolean, expected: string): Record<string, number> {
      const value = json[key] ?? {};
      const fine =
        isJsonObject(value) &&
        Object.values(value).every((item) => typeof item === "number" && allowed(item));
      return fine
        ? (value as Record<string, number>)
        : wrong(key, `a map from module patterns to ${expected}`);
    },
  };
}
