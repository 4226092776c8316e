// Gemma 4 (text): norms of plain w before and after each part, RMSNorm on heads of q, k and v, unscaled scores, windowed
// layers and wider heads in those that see everything, whose values may be their keys; the last layers may attend to keys
// and values of earlier ones; a number multiplies the stream behind each layer; embeddings of each layer in the small sizes,
// experts beside each MLP in one.

import { UserError } from "../util/errors.ts";
import type { Architecture } from "./architecture.ts";
import {
  ConfigReader,
  type DecoderConfig,
  type ExpertsConfig,
  eachLayer,
  type Json,
  type LayerConfig,
  type PerLayerConfig,
  readCommon,
  readLayerTypes,
  readWindow,
  sandwichPaths,
} from "./decoder-config.ts";
import { gemma4Gguf } from "./gguf/gemma4.ts";
import { readExpertCount } from "./mixture-config.ts";
import { readRopesByType } from "./rope-config.ts";

/** Those of transformers' classes: published files leave out what equals them. */
const defaults = {
  ...{ vocab_size: 262_144, hidden_size: 2304, intermediate_size: 9216, num_hidden_layers: 30 },
  ...{ num_attention_heads: 8, num_key_value_heads: 4, head_dim: 256 },
  hidden_activation: "gelu_pytorch_tanh",
} as const;
const usualRopes = {
  sliding_attention: { rope_type: "default", rope_theta: 10_000 },
  full_attention: { rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 1_000_000 },
} as const;

type LayerType = keyof typeof usualRopes;

interface Own {
  readonly window: number;
  readonly maxPositions: number;
  /** Its classes know of embeddings of each layer, and of experts. */
  readonly perLayer: boolean;
  readonly experts: boolean;
}

function architecture(modelType: string, own: Own) {
  return {
    modelType,
    gguf: gemma4Gguf,
    readConfig(json) {
      const given: Json = { ...defaults, sliding_window: own.window, ...json };
      refuseOthers(given);
      const common = readCommon(
        { ...given, hidden_act: given.hidden_activation },
        { tied: true, maxPositions: own.maxPositions, normEpsilon: 1e-6 },
      );
      const read = new ConfigReader(given);
      const types = layerTypes(given, common.layers.length);
      const heads = readHeads(given, common, types);
      const window = readWindow(given);
      const bias = read.flag("attention_bias", false);
      const sharing = sharedKeys(given, types);
      const wide = read.flag("use_double_wide_mlp", false);
      const valuesFromKeys = read.flag("attention_k_eq_v", false);
      const experts = own.experts ? readExperts(given) : undefined;
      return {
        ...common,
        ...{ qkvBias: bias, outputBias: bias, qkNorm: "head", valueNorm: true, layerScalars: true },
        ...{ norms: "sandwich", paths: sandwichPaths },
        ...{ embeddingScale: Math.sqrt(common.width), embeddingScaleRounded: true },
        logitSoftCap: read.positiveOrNothing("final_logit_softcapping"),
        ropes: readRopes(given, common, types, heads),
        perLayer: own.perLayer ? readPerLayer(given, common) : undefined,
        ...(experts ? { mixture: { files: "fused", allLinear: false } as const } : {}),
        layers: eachLayer(common, (i, { mlpWidth }) => ({
          ...heads[i]!,
          ...sharing[i]!,
          ...{ attentionScale: 1, rope: types[i] === "full_attention" ? 0 : 1 },
          window: types[i] === "sliding_attention" ? window : 0,
          ...(experts ? { mlp: "mixtureBeside", experts } : {}),
          mlpWidth: wide && sharing[i]!.keysFrom !== undefined ? 2 * mlpWidth : mlpWidth,
          valuesFromKeys: valuesFromKeys && types[i] === "full_attention",
        })),
      };
    },
  } satisfies Architecture;
}

/** The sizes E2B, E4B, 31B and 26B-A4B. */
export const gemma4Text = architecture("gemma4_text", {
  ...{ window: 512, maxPositions: 131_072, perLayer: true, experts: true },
});
/** The size 12B. */
export const gemma4UnifiedText = architecture("gemma4_unified_text", {
  ...{ window: 1024, maxPositions: 262_144, perLayer: false, experts: false },
});

function refuseOthers(given: Json): void {
  if (given.use_bidirectional_attention === "all" || given.use_bidirectional_attention === true) {
    throw new UserError(
      "config.json: use_bidirectional_attention is set: an encoder, whose tokens see what follows them; lowrank trains models that predict what follows",
    );
  }
}

/** Experts beside the MLP of every layer; undefined where the model is dense. */
function readExperts(given: Json): ExpertsConfig | undefined {
  const read = new ConfigReader(given);
  if (!read.flag("enable_moe_block", false)) return undefined;
  const count = readExpertCount(given);
  return {
    ...{ count, perToken: read.integer("top_k_experts", undefined, count) },
    width: read.integer("moe_intermediate_size"),
    ...{ normalized: true, bias: false, limit: 0, alpha: 0 },
  };
}

/** Five windowed layers to one that sees everything, and the last one always does. */
function layerTypes(given: Json, layers: number): LayerType[] {
  const types =
    readLayerTypes(given, layers, ["full_attention", "sliding_attention"]) ??
    Array.from({ length: layers }, (_, i) => ((i + 1) % 6 === 0 ? "full_attention" : "sliding_attention"));
  return types.map((type, i) => (i === layers - 1 ? "full_attention" : type));
}

type Heads = Pick<LayerConfig, "headWidth" | "kvHeads">;

/** Heads of each layer: keys of config.json for those that see everything, or per_layer_config of transformers 5.24. */
function readHeads(given: Json, { heads, layers }: DecoderConfig, types: readonly LayerType[]): Heads[] {
  const byLayer = given.per_layer_config ?? undefined;
  if (byLayer !== undefined && (typeof byLayer !== "object" || Array.isArray(byLayer))) {
    throw new UserError(
      `config.json: per_layer_config should hold an object for layers by number, found ${JSON.stringify(byLayer).slice(0, 80)}`,
    );
  }
  const read = new ConfigReader(given);
  const gathersKeys = read.flag("attention_k_eq_v", false) && given.num_global_key_value_heads;
  const ofFull = {
    head_dim: read.integer("global_head_dim", 512, 4096),
    ...(gathersKeys ? { num_key_value_heads: given.num_global_key_value_heads } : {}),
  };
  const found = layers.map(({ headWidth, kvHeads }, i): Heads => {
    const full = types[i] === "full_attention";
    const own = byLayer === undefined ? (full ? ofFull : {}) : ((byLayer as Json)[String(i)] ?? {});
    if (typeof own !== "object" || own === null || Array.isArray(own)) {
      throw new UserError(
        `config.json: per_layer_config should give layer ${i} an object, found ${JSON.stringify(own).slice(0, 80)}`,
      );
    }
    const strange = Object.keys(own as Json).find(
      (key) => key !== "head_dim" && key !== "num_key_value_heads",
    );
    if (strange !== undefined) {
      throw new UserError(
        `config.json: per_layer_config gives layer ${i} a ${strange} of its own, which is not supported; supported are head_dim and num_key_value_heads`,
      );
    }
    const of = new ConfigReader(own as Json);
    const layer = {
      headWidth: of.integer("head_dim", headWidth, 4096),
      kvHeads: of.integer("num_key_value_heads", kvHeads),
    };
    if (heads % layer.kvHeads !== 0 || layer.headWidth % 2 !== 0) {
      throw new UserError(
        `config.json: layer ${i} has ${layer.kvHeads} key/value heads of ${layer.headWidth} elements; expected an even width, and a divisor of num_attention_heads ${heads}`,
      );
    }
    return layer;
  });
  for (const [i, layer] of found.entries()) {
    const first = found[types.indexOf(types[i]!)]!;
    if (layer.headWidth === first.headWidth && layer.kvHeads === first.kvHeads) continue;
    throw new UserError(
      `config.json: layers of type ${types[i]} have heads of different kinds, layer ${i} ${layer.kvHeads} of ${layer.headWidth} elements and the first ${first.kvHeads} of ${first.headWidth}; expected one kind for each type`,
    );
  }
  return found;
}

/** RoPEs of the layers that see everything, and of the windowed ones. */
function readRopes(
  given: Json,
  { maxPositions, layers }: DecoderConfig,
  types: readonly LayerType[],
  heads: readonly Heads[],
): DecoderConfig["ropes"] {
  const parameters = given.rope_parameters ?? usualRopes;
  const found = new Map(typeof parameters === "object" ? Object.entries(parameters as Json) : []);
  const thetas = { full_attention: 1_000_000, sliding_attention: 10_000 };
  return (["full_attention", "sliding_attention"] as const).map((type) => {
    const first = types.indexOf(type);
    const { headWidth } = first < 0 ? layers[0]! : heads[first]!;
    // The plain type turns whole heads, whatever share is written beside it, and so it does in transformers.
    const own = found.get(type);
    const plain = typeof own === "object" && ((own as Json | null)?.rope_type ?? "default") === "default";
    const turned = plain ? { ...own, partial_rotary_factor: undefined } : own;
    const json = {
      ...{ ...given, rope_scaling: undefined, partial_rotary_factor: undefined },
      rope_parameters: typeof parameters === "object" ? { [type]: turned } : parameters,
    };
    const rope = readRopesByType(json, { headWidth, maxPositions }, thetas, () => {})[type];
    return { rope, headWidth };
  });
}

/** Which layers attend to keys of earlier ones: the last num_kv_shared_layers, to the last own layer of their type. */
function sharedKeys(given: Json, types: readonly LayerType[]): Pick<LayerConfig, "keysFrom" | "keysRead">[] {
  const count =
    (given.num_kv_shared_layers ?? 0) === 0 ? 0 : new ConfigReader(given).integer("num_kv_shared_layers");
  const own = types.slice(0, Math.max(0, types.length - count));
  const from = types.map((type, i) => (i < own.length ? undefined : own.lastIndexOf(type)));
  const without = from.indexOf(-1);
  if (without >= 0) {
    throw new UserError(
      `config.json: num_kv_shared_layers ${count} leaves no layer of type ${types[without]} with keys of its own, which layer ${without} could attend to`,
    );
  }
  return from.map((keysFrom, i) => ({ keysFrom, keysRead: from.includes(i) }));
}

function readPerLayer(given: Json, { vocabularySize }: DecoderConfig): PerLayerConfig | undefined {
  const read = new ConfigReader(given);
  if (given.hidden_size_per_layer_input === 0 || given.hidden_size_per_layer_input === null) return undefined;
  const own = {
    width: read.integer("hidden_size_per_layer_input", 256),
    vocabularySize: read.integer("vocab_size_per_layer_input", 262_144),
  };
  if (own.vocabularySize < vocabularySize) {
    throw new UserError(
      `config.json: vocab_size_per_layer_input ${own.vocabularySize} is less than vocab_size ${vocabularySize}: some tokens would have no embeddings for each layer`,
    );
  }
  return own;
}
