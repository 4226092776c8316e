// Which linear layers a LoRA adapter changes, with which rank and scale: the rules of PEFT, in our own terms.
// Foreign key names and files are in peft.ts; the arithmetic of an adapter is in nn/lora.ts.
// Rules: peft 0.21, tuners_utils.check_target_module_exists and other.get_pattern_key; held to them by
// test/golden/peft-targets.json.

import type { AdapterKindName } from "../nn/adapter-kinds/index.ts";
import { UserError } from "../util/errors.ts";
import { compilePythonPattern } from "./python-pattern.ts";

export interface AdapterConfig {
  /** What the adapter is beside its factors' product: nn/adapter-kinds. */
  readonly kind: AdapterKindName;
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number;
  /** Scale alpha/sqrt(rank) in place of alpha/rank. Kalajdzievski 2023. */
  readonly rslora: boolean;
  /**
   * A list: each item names a module by its full path or by whole last segments ("q_proj", "mlp.up_proj").
   * A string: "all-linear" (every linear layer but the output head), or a Python regular expression that must match
   * the full path from end to end.
   */
  readonly targets: string | readonly string[];
  /** Parameters of no linear layer (experts, routers), by the ends of their paths, beside `targets`. */
  readonly targetParameters?: readonly string[];
  /** As `targets`, and stronger: a list or a regular expression. */
  readonly excludeModules?: string | readonly string[];
  /** Regular expressions over the end of a module's path; the first that matches sets the rank. */
  readonly rankPattern: Readonly<Record<string, number>>;
  readonly alphaPattern: Readonly<Record<string, number>>;
  /** Modules trained and saved whole, beside the adapter. */
  readonly modulesToSave: readonly string[];
  /** Only these layers; applies to targets given as a list, and there not to full paths. */
  readonly layersToTransform?: readonly number[];
  readonly layersPattern: readonly string[];
  /** Which biases train with it. */
  readonly bias: "none" | "lora_only" | "all";
  /** What replaces one of two tied tables, or adapts it, does so for both. */
  readonly ensureWeightTying: boolean;
  readonly taskType: string;
  readonly baseModel?: string;
  readonly revision?: string;
  readonly initLoraWeights: boolean | string;
}

/** What a new adapter must say, and the rest by default. */
export function newAdapterConfig(
  given: Pick<AdapterConfig, "rank" | "alpha" | "targets"> & Partial<AdapterConfig>,
): AdapterConfig {
  return {
    kind: "lora",
    dropout: 0,
    rslora: false,
    rankPattern: {},
    alphaPattern: {},
    modulesToSave: [],
    layersPattern: [],
    bias: "none",
    ensureWeightTying: false,
    taskType: "CAUSAL_LM",
    initLoraWeights: true,
    ...(Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as typeof given),
  };
}

/** Of one adapted module: y += scale * B A x, with A [rank, in]. */
export interface ModuleSettings {
  readonly rank: number;
  readonly alpha: number;
  readonly scale: number;
}

export interface TargetOptions {
  /** Path of the output head, which "all-linear" leaves out. */
  readonly outputHead?: string;
}

/**
 * The modules that the adapter changes, in the order given. `moduleNames` are the paths of the model's linear layers, and of
 * its stacks of experts: a list's name without a path reaches these only where no linear layer is called so, since to PEFT
 * they are parameters of no linear layer.
 * UserError when none matches.
 */
export function matchTargets(
  config: AdapterConfig,
  moduleNames: readonly string[],
  options: TargetOptions = {},
): Map<string, ModuleSettings> {
  const matches = targetMatcher(config, options);
  const settings = settingsReader(config);
  const found = new Map<string, ModuleSettings>();
  const stacks = stacksBeside(moduleNames);
  const listed = typeof config.targets === "string" ? [] : config.targets;
  const wanted = [...listed.filter((target) => target.includes(".")), ...(config.targetParameters ?? [])];
  for (const name of moduleNames) {
    const byName = typeof config.targets === "string" || !stacks.has(name);
    if (matches(name) && (byName || wanted.some((target) => endsWithPath(name, target))))
      found.set(name, settings(name));
  }
  if (found.size === 0) {
    throw new UserError(
      `adapter: targets ${describe(config.targets)} match no linear layer of this model. Its layers are named ${lastSegments(moduleNames).join(", ")}; use these names, "all-linear", or a regular expression over full paths such as ${moduleNames[0] ?? "model.layers.0.self_attn.q_proj"}.`,
    );
  }
  return found;
}

/** Stacks of experts whose last name linear layers have too. */
function stacksBeside(moduleNames: readonly string[]): Set<string> {
  const isStack = (name: string) => /\.experts\.\w+$/.test(name);
  const last = (name: string) => name.slice(name.lastIndexOf(".") + 1);
  const linears = new Set(moduleNames.filter((name) => !isStack(name)).map(last));
  return new Set(moduleNames.filter((name) => isStack(name) && linears.has(last(name))));
}

/** Items of a target list that name no module at all: a typing mistake, or a name of another architecture. */
export function unmatchedTargets(config: AdapterConfig, moduleNames: readonly string[]): string[] {
  if (typeof config.targets === "string") return [];
  return config.targets.filter((target) => !moduleNames.some((name) => endsWithPath(name, target)));
}

/** Whether the module of a path is trained and saved whole: by the end of its path or of one that it lies in. */
export function savedWholeMatcher(modulesToSave: readonly string[]): (module: string) => boolean {
  return (module) => {
    const parts = module.split(".");
    return parts.some((_, i) => {
      const path = parts.slice(0, i + 1).join(".");
      return modulesToSave.some((name) => path.endsWith(name));
    });
  };
}

/** Whether the adapter changes the module of a path. */
export function targetMatcher(config: AdapterConfig, options: TargetOptions = {}): (name: string) => boolean {
  const excluded = listOrPattern(config.excludeModules ?? [], "excluded modules");
  const savedWhole = config.modulesToSave.map((name) =>
    compilePythonPattern(`(^|.*\\.)(?:${name})($|\\..*)`, "modules to save", "start"),
  );
  const layers = config.layersToTransform?.length ? new Set(config.layersToTransform) : undefined;
  const layerOf = layerReader(config.layersPattern);
  const { targets } = config;
  const outputHead = options.outputHead ?? "lm_head";
  const targeted =
    typeof targets !== "string"
      ? (name: string) =>
          targets.includes(name) ||
          (targets.some((target) => name.endsWith(`.${target}`)) &&
            (!layers || layers.has(layerOf(name) ?? -1)))
      : targets.toLowerCase() === "all-linear"
        ? (name: string) => name !== outputHead
        : listOrPattern(targets, "targets");
  const parameters = config.targetParameters ?? [];
  const isParameter = (name: string) =>
    parameters.some((target) => endsWithPath(name, target) || endsWithPath(`${name}.weight`, target));
  return (name) =>
    !excluded(name) &&
    !savedWhole.some((pattern) => pattern.test(name)) &&
    (targeted(name) || isParameter(name));
}

/** Rank, alpha and scale by module path. */
export function settingsReader(config: AdapterConfig): (name: string) => ModuleSettings {
  const rankOf = patternReader(config.rankPattern, config.rank, "rank pattern");
  const alphaOf = patternReader(config.alphaPattern, config.alpha, "alpha pattern");
  return (name) => {
    const rank = rankOf(name);
    const alpha = alphaOf(name);
    return { rank, alpha, scale: alpha / (config.rslora ? Math.sqrt(rank) : rank) };
  };
}

function patternReader(patterns: Readonly<Record<string, number>>, otherwise: number, where: string) {
  const compiled = Object.entries(patterns).map(
    ([key, value]) => [compilePythonPattern(`(.*\\.)?(?:${key})$`, where, "start"), value] as const,
  );
  return (name: string): number => compiled.find(([pattern]) => pattern.test(name))?.[1] ?? otherwise;
}

function listOrPattern(targets: string | readonly string[], where: string): (name: string) => boolean {
  if (typeof targets === "string") {
    if (targets === "") return () => false;
    const pattern = compilePythonPattern(targets, where, "full");
    return (name) => pattern.test(name);
  }
  return (name) => targets.some((target) => endsWithPath(name, target));
}

function endsWithPath(name: string, target: string): boolean {
  return name === target || name.endsWith(`.${target}`);
}

/** The number of a module's layer: the first numbered segment, or the one after a named list of layers. */
function layerReader(names: readonly string[]): (name: string) => number | undefined {
  const sources = names.length === 0 ? [".*?\\.[^.]*"] : names.map((name) => `(?:^|.*?\\.)(?:${name})`);
  const patterns = sources.map((source) =>
    compilePythonPattern(`${source}\\.(?P<layerIndex>\\d+)\\.`, "layers pattern", "start"),
  );
  return (name) => {
    for (const pattern of patterns) {
      const index = pattern.group(name, "layerIndex");
      if (index !== undefined) return Number(index);
    }
    return undefined;
  };
}

function describe(targets: string | readonly string[]): string {
  return typeof targets === "string" ? JSON.stringify(targets) : targets.join(", ");
}

function lastSegments(names: readonly string[]): string[] {
  return [...new Set(names.map((name) => name.slice(name.lastIndexOf(".") + 1)))].sort();
}
