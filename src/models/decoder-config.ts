// The configuration of a LLaMA-family decoder in our terms, and the reading of what its config.json's have in
// common. Each architecture's own reader is in the file named after its model_type.

import type { ActivationKind } from "../backend/backend.ts";
import type { RopeConfig } from "../nn/rope-tables.ts";
import { UserError } from "../util/errors.ts";

export interface DecoderConfig {
  readonly modelType: string;
  readonly vocabularySize: number;
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headWidth: number;
  readonly mlpWidth: number;
  readonly normEpsilon: number;
  readonly activation: ActivationKind;
  /** The output head is the embedding table. */
  readonly tied: boolean;
  /** Biases on q, k, v; on o; and on the MLP. */
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** RMSNorm on each head of q and k before the rotation. */
  readonly qkNorm: boolean;
  /** Attention window of each layer; 0 sees everything earlier. */
  readonly windows: readonly number[];
  readonly rope: RopeConfig;
  readonly maxPositions: number;
}

export type Json = Readonly<Record<string, unknown>>;

/** Reads fields of a config.json with clear refusals. */
export class ConfigReader {
  constructor(readonly json: Json) {}

  integer(key: string, fallback?: number, most = 2 ** 24): number {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "number" || !Number.isInteger(value) || value < 1 || value > most) {
      throw new UserError(
        `config.json: "${key}" should be a whole number from 1 to ${most}, found ${JSON.stringify(value)}`,
      );
    }
    return value;
  }

  number(key: string, fallback?: number): number {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value)) {
      throw new UserError(`config.json: "${key}" should be a number, found ${JSON.stringify(value)}`);
    }
    return value;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "boolean") {
      throw new UserError(`config.json: "${key}" should be true or false, found ${JSON.stringify(value)}`);
    }
    return value;
  }
}

const activations: Readonly<Record<string, ActivationKind>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_new: "geluTanh",
  gelu_pytorch_tanh: "geluTanh",
};

/** What all architectures of this family read alike. `normal` gives the transformers class's defaults. */
export function readCommon(
  json: Json,
  normal: { theta: number; tied: boolean; maxPositions: number; normEpsilon: number },
): Omit<DecoderConfig, "qkvBias" | "outputBias" | "mlpBias" | "qkNorm" | "windows"> {
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
  const name = String(json.hidden_act ?? "silu");
  const activation = activations[name];
  if (!activation) {
    throw new UserError(
      `config.json: hidden_act "${name}" is not supported; supported are ${Object.keys(activations).join(", ")}`,
    );
  }
  const maxPositions = read.integer("max_position_embeddings", normal.maxPositions, 2 ** 31);
  return {
    modelType: String(json.model_type),
    vocabularySize: read.integer("vocab_size"),
    width,
    layers: read.integer("num_hidden_layers", undefined, 1000),
    heads,
    kvHeads,
    headWidth,
    mlpWidth: read.integer("intermediate_size"),
    normEpsilon: read.number("rms_norm_eps", normal.normEpsilon),
    activation,
    tied: read.flag("tie_word_embeddings", normal.tied),
    rope: readRope(json, normal.theta, maxPositions),
    maxPositions,
  };
}

const ropeTypes = ["default", "linear", "dynamic", "llama3"];

/** Reads rope_parameters (transformers 5) or rope_theta + rope_scaling (transformers 4). */
function readRope(json: Json, normalTheta: number, maxPositions: number): RopeConfig {
  const scaling = (json.rope_parameters ?? json.rope_scaling ?? {}) as Json;
  if (typeof scaling !== "object" || Array.isArray(scaling)) {
    throw new UserError(
      `config.json: rope_scaling should be an object or null, found ${JSON.stringify(scaling)}`,
    );
  }
  const read = new ConfigReader(scaling);
  const type = String(scaling.rope_type ?? scaling.type ?? "default");
  const theta = read.number(
    "rope_theta",
    typeof json.rope_theta === "number" ? json.rope_theta : normalTheta,
  );
  const partial = scaling.partial_rotary_factor ?? json.partial_rotary_factor ?? 1;
  if (partial !== 1)
    throw new UserError(`config.json: partial_rotary_factor ${partial} is not supported; supported is 1`);
  switch (type) {
    case "default":
      return { type, theta };
    case "linear":
      return { type, theta, factor: read.number("factor") };
    case "dynamic":
      return {
        type,
        theta,
        factor: read.number("factor"),
        originalMaxPositions: read.integer("original_max_position_embeddings", maxPositions, 2 ** 31),
      };
    case "llama3":
      return {
        type,
        theta,
        factor: read.number("factor"),
        lowFrequencyFactor: read.number("low_freq_factor"),
        highFrequencyFactor: read.number("high_freq_factor"),
        originalMaxPositions: read.integer("original_max_position_embeddings", maxPositions, 2 ** 31),
      };
    default:
      throw new UserError(
        `config.json: rope type "${type}" is not supported; supported are ${ropeTypes.join(", ")}`,
      );
  }
}

/** Window of each layer where config.json gives layer_types, or the older max_window_layers rule. */
export function readWindows(json: Json, layers: number, uses: boolean, fromLayer: number): number[] {
  const window = uses && typeof json.sliding_window === "number" ? json.sliding_window : 0;
  if (window < 0 || !Number.isInteger(window)) {
    throw new UserError(
      `config.json: sliding_window should be a positive whole number or null, found ${window}`,
    );
  }
  const types = json.layer_types;
  if (types !== undefined && types !== null) {
    if (!Array.isArray(types) || types.length !== layers) {
      throw new UserError(
        `config.json: layer_types should name ${layers} layers, found ${JSON.stringify(types)?.slice(0, 80)}`,
      );
    }
    return types.map((type) => {
      if (type === "full_attention") return 0;
      if (type === "sliding_attention") return window;
      throw new UserError(
        `config.json: layer type "${type}" is not supported; supported are full_attention, sliding_attention`,
      );
    });
  }
  return Array.from({ length: layers }, (_, i) => (i >= fromLayer ? window : 0));
}
