// Factors of a mixture's experts in adapter files. PEFT 0.21 wraps a parameter of experts (target_parameters), and wraps
// the wrapper for a second one: `experts.lora_A` is down_proj's and `experts.base_layer.lora_A` gate_up_proj's where both
// are adapted, and with one alone `experts.lora_A` is that one's. Adapters made before transformers 5 have factors of
// every expert's own linear layers (`experts.3.gate_proj.lora_A`): they become one pair, gate and up side by side in twice
// the rank, as PEFT converts them when it loads (which it cannot undo). Here all go by the names of the stacks,
// `experts.gate_up_proj` and `experts.down_proj`. Part of peft.ts.

import { UserError } from "../util/errors.ts";
import type { AdapterConfig, ModuleSettings } from "./adapter-targets.ts";
import type { AdapterPair, TensorValues } from "./adapter-tensors.ts";

const wrapper = /^(.*\.experts)(\.base_layer)?$/;
const single = /^(.*)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)$/;
const stacked = /^(.*\.experts)\.(gate_up_proj|down_proj)$/;
const router = /\.mlp\.(?:gate|router)$/;

/** More experts than any mixture has: a hostile index would ask for memory. */
const mostExperts = 4096;

/** Whether a module is a parameter to PEFT and no linear layer. */
export const isPeftParameter = (module: string): boolean => stacked.test(module) || router.test(module);

/** The name of the parameter in target_parameters. */
export const parameterName = (module: string): string => (router.test(module) ? `${module}.weight` : module);

/** Wrapped factors by the names of their stacks. UserError where the configuration does not say whose they are. */
export function unwrappedExperts(
  modules: ReadonlyMap<string, AdapterPair>,
  config: AdapterConfig,
  file: string,
): Map<string, AdapterPair> {
  const named = (weight: string) =>
    (config.targetParameters ?? []).some((target) =>
      `.experts.${weight}`.endsWith(`.${target.split(".").at(-1)}`),
    );
  return new Map(
    [...modules].map(([module, pair]) => {
      const found = wrapper.exec(module.replace(/\.block_sparse_moe\./, ".mlp."));
      if (!found) return [module.replace(/\.block_sparse_moe\.gate$/, ".mlp.gate"), pair] as const;
      const [, experts, inner] = found;
      if (inner) return [`${experts}.gate_up_proj`, pair] as const;
      const both = modules.has(`${module}.base_layer`);
      const ways = both ? ["down_proj"] : ["gate_up_proj", "down_proj"].filter(named);
      if (ways.length !== 1)
        throw new UserError(
          `${file}: it holds one pair of factors for ${module}, and adapter_config.json's target_parameters (${(config.targetParameters ?? []).join(", ") || "none"}) does not say of which of its parameters.`,
        );
      return [`${experts}.${ways[0]}`, pair] as const;
    }),
  );
}

/** The name under which PEFT's file has a stack's factors, among the modules that it holds. */
export function wrappedName(module: string, modules: ReadonlyMap<string, AdapterPair>): string {
  const found = stacked.exec(module);
  if (!found) return module;
  const [, experts, weight] = found;
  const inner = weight === "gate_up_proj" && modules.has(`${experts}.down_proj`);
  return inner ? `${experts}.base_layer` : experts!;
}

/** A pair of experts says of how many: A has a row for each expert and rank. */
export function withExpertCount(module: string, pair: AdapterPair, rank: number): AdapterPair {
  if (!stacked.test(module)) return pair;
  const rows = pair.a.shape[0]!;
  return rows % rank === 0 && rows > 0 ? { ...pair, experts: rows / rank } : pair;
}

interface Converted {
  readonly modules: Map<string, AdapterPair>;
  readonly settings: Map<string, ModuleSettings>;
  readonly config: AdapterConfig;
}

/** Factors of single experts as those of stacks. UserError for experts that differ in rank or scale. */
export function joinedExperts(
  modules: ReadonlyMap<string, AdapterPair>,
  settings: ReadonlyMap<string, ModuleSettings>,
  config: AdapterConfig,
  file: string,
): Converted {
  const groups = new Map<string, Map<number, Map<string, string>>>();
  const out = { modules: new Map<string, AdapterPair>(), settings: new Map(settings) };
  for (const [module, pair] of modules) {
    const found = single.exec(module);
    if (!found) {
      out.modules.set(module, pair);
      continue;
    }
    const [, layer, index, matrix] = found;
    const usual = { w1: "gate_proj", w3: "up_proj", w2: "down_proj" }[matrix!] ?? matrix!;
    if (Number(index) >= mostExperts)
      throw new UserError(`${file}: ${module}: an expert of this number is beyond what a mixture has.`);
    const name = `${layer}.mlp.experts.${usual === "down_proj" ? "down_proj" : "gate_up_proj"}`;
    const experts = groups.get(name) ?? new Map<number, Map<string, string>>();
    groups.set(name, experts);
    const own = experts.get(Number(index)) ?? new Map<string, string>();
    experts.set(Number(index), own.set(usual, module));
    out.settings.delete(module);
  }
  if (groups.size === 0) return { ...out, config };
  let doubled: ModuleSettings | undefined;
  const parameters = new Set(config.targetParameters ?? []);
  for (const [name, experts] of groups) {
    const { pair, of } = stackOf(name, experts, modules, settings, file);
    const twice = name.endsWith("gate_up_proj");
    const alpha = of.alpha * (config.rslora ? Math.SQRT2 : 2);
    const own = twice ? { rank: 2 * of.rank, alpha, scale: of.scale } : of;
    if (twice) doubled = own;
    out.modules.set(name, pair);
    out.settings.set(name, own);
    parameters.add(`mlp.experts.${twice ? "gate_up_proj" : "down_proj"}`);
  }
  const pattern = ".*\\.experts\\.gate_up_proj";
  return {
    ...out,
    config: {
      ...config,
      targetParameters: [...parameters],
      rankPattern: doubled ? { ...config.rankPattern, [pattern]: doubled.rank } : config.rankPattern,
      alphaPattern: doubled ? { ...config.alphaPattern, [pattern]: doubled.alpha } : config.alphaPattern,
    },
  };
}

/** One stack's pair: gate and up stand side by side as blocks; what an expert has not is zeros. */
function stackOf(
  name: string,
  experts: ReadonlyMap<number, ReadonlyMap<string, string>>,
  modules: ReadonlyMap<string, AdapterPair>,
  settings: ReadonlyMap<string, ModuleSettings>,
  file: string,
): { pair: AdapterPair; of: ModuleSettings } {
  const matrices = name.endsWith("gate_up_proj") ? ["gate_proj", "up_proj"] : ["down_proj"];
  const count = Math.max(...experts.keys()) + 1;
  const first = [...[...experts.values()][0]!.values()][0]!;
  const of = settings.get(first)!;
  const { a, b } = modules.get(first)!;
  const [rank, inputs] = a.shape as [number, number];
  const outputs = b.shape[0]!;
  const both = matrices.length;
  const ranks = both * rank;
  const stackA = new Float32Array(count * ranks * inputs);
  const stackB = new Float32Array(both * outputs * ranks * count);
  for (const [e, own] of experts) {
    for (const [half, matrix] of matrices.entries()) {
      const module = own.get(matrix);
      if (module === undefined) continue;
      const pair = modules.get(module)!;
      const alike =
        pair.a.shape.join() === a.shape.join() &&
        pair.b.shape.join() === b.shape.join() &&
        settings.get(module)!.scale === of.scale;
      if (!alike)
        throw new UserError(
          `${file}: ${module} and ${first} differ in rank, scale or shape; experts of one layer are adapted alike here. Load it with PEFT and save it again.`,
        );
      stackA.set(pair.a.values, (e * ranks + half * rank) * inputs);
      for (let o = 0; o < outputs; o++)
        for (let r = 0; r < rank; r++)
          stackB[((half * outputs + o) * ranks + half * rank + r) * count + e] = pair.b.values[o * rank + r]!;
    }
  }
  const tensor = (shape: readonly number[], values: Float32Array): TensorValues => ({ shape, values });
  return {
    of,
    pair: {
      a: tensor([count * ranks, inputs], stackA),
      b: tensor([both * outputs, ranks * count], stackB),
      experts: count,
    },
  };
}
