// The configuration of a LLaMA-family decoder in our terms, and the reading of what its config.json's have in
// common. Each architecture's own reader is in the file named after its model_type.

import type { ActivationKind } from "../backend/backend.ts";
import type { RopeConfig } from "../nn/rope-frequencies.ts";
import { UserError } from "../util/errors.ts";
import { ConfigReader, type Json } from "./config-reader.ts";
import { type LayerTypeThetas, readRope, readRopesByType } from "./rope-config.ts";

export { ConfigReader, type Json } from "./config-reader.ts";

/** What may differ from layer to layer. */
export interface LayerConfig {
  /** What mixes the layer's tokens, and what follows it: names of blocks/index.ts. */
  readonly mixer: string;
  readonly mlp: string;
  /** Attention window; 0 sees everything earlier. */
  readonly window: number;
  readonly headWidth: number;
  readonly kvHeads: number;
  readonly mlpWidth: number;
  /** A mixture's experts; absent in other layers. */
  readonly experts?: ExpertsConfig;
  /** Multiplies the scores of attention. */
  readonly attentionScale: number;
  /** Which of the configuration's RoPEs turns queries and keys; absent: none does. */
  readonly rope?: number;
  /** Values are what the keys' projection makes, before its norm and its rotation. */
  readonly valuesFromKeys?: boolean;
  /** It attends to keys and values of this earlier layer and makes none of its own. */
  readonly keysFrom?: number;
  /** Later layers attend to its keys and values. */
  readonly keysRead?: boolean;
  /** Of a mixer with a short convolution, and of one by the delta rule. */
  readonly convolution?: ConvolutionConfig;
  readonly delta?: DeltaConfig;
}

export interface ConvolutionConfig {
  readonly channels: number;
  /** Tokens that it sees, the present one included. */
  readonly taps: number;
  /** It and the projections around it. */
  readonly bias: boolean;
}

/** Heads of linear attention: a key head serves valueHeads / keyHeads value heads. */
export interface DeltaConfig {
  readonly keyHeads: number;
  readonly keyWidth: number;
  readonly valueHeads: number;
  readonly valueWidth: number;
}

/** Experts of a layer, each of them a gated MLP. */
export interface ExpertsConfig {
  readonly count: number;
  /** That a token goes to. */
  readonly perToken: number;
  /** Of each one's MLP, where a dense MLP of width mlpWidth stands beside them; absent: mlpWidth is theirs. */
  readonly width?: number;
  /** Width of one more expert that every token goes to; absent: there is none. */
  readonly sharedWidth?: number;
  /** Weights of the chosen experts are made to sum to 1. */
  readonly normalized: boolean;
  /** Biases on the router and in the experts. */
  readonly bias: boolean;
  /** The activation held within a limit, as gpt-oss has it; 0: the configuration's own. */
  readonly limit: number;
  readonly alpha: number;
}

/** How a mixture's weights are called and held in files, and which of them "all-linear" means. */
export interface MixtureConfig {
  readonly files: "gate_proj" | "w1" | "interleaved" | "fused";
  /** PEFT's all-linear adapts the experts of this architecture. */
  readonly allLinear: boolean;
}

/** A second embedding of tokens, with a part for each layer, which the layer takes in after its MLP. */
export interface PerLayerConfig {
  /** Of a layer's part. */
  readonly width: number;
  readonly vocabularySize: number;
}

/** A text model inside one of more than text; see text-tower.ts. */
export interface TextTower {
  /** model_type of the whole. */
  readonly wrapper: string;
  /** What stands for "model." at the front of a module's name in the whole, as PEFT names it. */
  readonly modulePrefix: string;
}

/** A rotary embedding and the heads that it turns. */
export interface LayerRope {
  readonly rope: RopeConfig;
  readonly headWidth: number;
}

export interface DecoderConfig {
  readonly modelType: string;
  readonly vocabularySize: number;
  readonly width: number;
  readonly layers: readonly LayerConfig[];
  readonly heads: number;
  readonly normEpsilon: number;
  readonly activation: ActivationKind;
  /** The output head is the embedding table. */
  readonly tied: boolean;
  /** Biases on q, k, v; on o; and on the MLP. */
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** q's rows are, head by head, queries and a gate: attention's output is multiplied by the gate's sigmoid. */
  readonly gatedAttention: boolean;
  /** q, k and v, or gate and up, are the rows of one matrix. */
  readonly fusedQkv: boolean;
  readonly fusedGateUp: boolean;
  /** Each head may attend to nothing, with a weight of its own in the softmax. */
  readonly attentionSinks: boolean;
  /** RMSNorm of q and k: on each head, or over all of a token's at once. */
  readonly qkNorm: "none" | "head" | "whole";
  /** RMSNorm of each head of v, without a weight. */
  readonly valueNorm: boolean;
  /** That norm follows the rotation instead of preceding it. */
  readonly qkNormAfterRope: boolean;
  /** Where a block's norms stand: before its parts, after them, or both. */
  readonly norms: "pre" | "sandwich" | "post";
  /** Norms multiply by this plus their weight. */
  readonly normShift: 0 | 1;
  /** Where a checkpoint's names of parts of a block, by blocks/'s names for them, are not the usual ones. */
  readonly paths: Readonly<Partial<Record<string, string>>>;
  /** The final norm's name in a checkpoint. */
  readonly finalNorm: string;
  /** Multiplies embedded tokens; "rounded" first to the precision of the weights. */
  readonly embeddingScale: number;
  readonly embeddingScaleRounded: boolean;
  /** Multiplies what a block's parts add to the stream. */
  readonly residualScale: number;
  /** A number of each layer's own multiplies the stream behind it; it is the checkpoint's and never trains. */
  readonly layerScalars: boolean;
  readonly perLayer?: PerLayerConfig;
  /** Multiplies logits; then cap * tanh(logits / cap), where the cap is not 0. */
  readonly logitScale: number;
  readonly logitSoftCap: number;
  /** Scores of attention become cap * tanh(score / cap) before they are masked, where this is not 0. */
  readonly attentionSoftCap: number;
  readonly ropes: readonly LayerRope[];
  readonly maxPositions: number;
  /**
   * In generation, keys and values of a text of up to so many tokens are computed anew when it becomes longer. Absent:
   * they serve at any length.
   */
  readonly keptUpTo?: number;
  /** Some layers are mixtures of experts. */
  readonly mixture?: MixtureConfig;
  /** Names of the weights where they lie in a model of more than text; absent: such a model is text alone. */
  readonly tower?: TextTower;
  /** What the user should know of how config.json was read. */
  readonly notes: readonly string[];
}

const activations: Readonly<Record<string, ActivationKind>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_new: "geluTanh",
  gelu_pytorch_tanh: "geluTanh",
};

/** What most architectures of the family have not; a file that says nothing of it gets this. */
const plainDecoder = {
  ...{ qkvBias: false, outputBias: false, mlpBias: false, fusedQkv: false, fusedGateUp: false },
  ...{ gatedAttention: false, attentionSinks: false, valueNorm: false, layerScalars: false },
  ...({ qkNorm: "none", qkNormAfterRope: false, norms: "pre", normShift: 0 } as const),
  ...{ paths: {}, finalNorm: "model.norm" },
  ...{ embeddingScale: 1, embeddingScaleRounded: false, residualScale: 1, logitScale: 1 },
  ...{ logitSoftCap: 0, attentionSoftCap: 0 },
} as const;

/** `paths` of blocks whose norms stand before and after their parts. */
export const sandwichPaths = {
  attentionPostNorm: "post_attention_layernorm",
  mlpNorm: "pre_feedforward_layernorm",
  mlpPostNorm: "post_feedforward_layernorm",
} as const;

export interface UsualValues {
  /** rope_theta; absent: the architecture reads its RoPEs itself. */
  readonly theta?: number;
  readonly tied: boolean;
  readonly maxPositions: number;
  readonly normEpsilon: number;
  /** The plain RoPE turns only partial_rotary_factor of each head. */
  readonly partialByDefault?: boolean;
}

/** What all architectures of this family read alike, for each to change what differs. `usual` gives the transformers class's defaults. */
export function readCommon(json: Json, usual: UsualValues): DecoderConfig {
  const read = new ConfigReader(json);
  const width = read.integer("hidden_size");
  const heads = read.integer("num_attention_heads");
  const kvHeads = read.integer("num_key_value_heads", heads);
  const headWidth = read.integer("head_dim", width / heads, 4096);
  if (heads % kvHeads !== 0) {
    throw new UserError(
      `config.json: num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`,
    );
  }
  if (headWidth % 2 !== 0)
    throw new UserError(`config.json: head width ${headWidth} is odd; rotary embedding needs an even one`);
  const maxPositions = read.integer("max_position_embeddings", usual.maxPositions, 2 ** 31);
  const notes: string[] = [];
  const { theta, partialByDefault } = usual;
  const shape = { headWidth, maxPositions, theta: theta ?? 0, partialByDefault };
  const ropes =
    theta === undefined ? [] : [{ rope: readRope(json, shape, (note) => notes.push(note)), headWidth }];
  const layer: LayerConfig = {
    ...{ mixer: "attention", mlp: "dense", window: 0, headWidth, kvHeads },
    mlpWidth: read.integer("intermediate_size"),
    attentionScale: 1 / Math.sqrt(headWidth),
    rope: ropes.length > 0 ? 0 : undefined,
  };
  return {
    ...plainDecoder,
    modelType: String(json.model_type),
    vocabularySize: read.integer("vocab_size"),
    width,
    layers: Array<LayerConfig>(read.integer("num_hidden_layers", undefined, 1000)).fill(layer),
    heads,
    normEpsilon: read.number("rms_norm_eps", usual.normEpsilon),
    activation: read.choice("hidden_act", "silu", activations),
    tied: read.flag("tie_word_embeddings", usual.tied),
    ropes,
    maxPositions,
    notes,
  };
}

/** The layers with what differs in each. */
export function eachLayer(
  { layers }: DecoderConfig,
  change: (index: number, layer: LayerConfig) => Partial<LayerConfig>,
): LayerConfig[] {
  return layers.map((layer, i) => ({ ...layer, ...change(i, layer) }));
}

/** layer_types, each of `known`, one for each layer; undefined where config.json gives none. */
export function readLayerTypes<T extends string>(
  json: Json,
  layers: number,
  known: readonly T[],
): T[] | undefined {
  const types = json.layer_types ?? undefined;
  if (types === undefined) return undefined;
  if (!Array.isArray(types) || types.length !== layers) {
    throw new UserError(
      `config.json: layer_types should name ${layers} layers, found ${JSON.stringify(types)?.slice(0, 80)}`,
    );
  }
  return types.map((type) => {
    if ((known as readonly unknown[]).includes(type)) return type as T;
    throw new UserError(
      `config.json: layer type ${JSON.stringify(type)} is not supported; supported are ${known.join(", ")}`,
    );
  });
}

/** RoPEs of layers of two types, and the index of each type's. `thetas` are those where config.json names none. */
export function readRopesFor(
  json: Json,
  config: DecoderConfig,
  thetas: LayerTypeThetas,
): Pick<DecoderConfig, "ropes" | "notes"> & { ropeOf(type: keyof LayerTypeThetas): number } {
  const { maxPositions } = config;
  const { headWidth } = config.layers[0]!;
  const notes = [...config.notes];
  const { full_attention: full, sliding_attention: sliding } = readRopesByType(
    json,
    { headWidth, maxPositions },
    thetas,
    (note) => notes.push(note),
  );
  const ropes = [full, sliding].map((rope) => ({ rope, headWidth }));
  return { ropes, notes, ropeOf: (type) => (type === "full_attention" ? 0 : 1) };
}

/** sliding_window; 0 where it is null or absent. */
export function readWindow(json: Json): number {
  const window = json.sliding_window ?? 0;
  if (typeof window !== "number" || window < 0 || !Number.isInteger(window)) {
    throw new UserError(
      `config.json: sliding_window should be a positive whole number or null, found ${JSON.stringify(window)}`,
    );
  }
  return window;
}

/** Window of each layer where config.json gives layer_types, or the older max_window_layers rule. */
export function readWindows(json: Json, layers: number, uses: boolean, fromLayer: number): number[] {
  const window = uses ? readWindow(json) : 0;
  const types = readLayerTypes(json, layers, ["full_attention", "sliding_attention"]);
  if (types) return types.map((type) => (type === "full_attention" ? 0 : window));
  return Array.from({ length: layers }, (_, i) => (i >= fromLayer ? window : 0));
}
