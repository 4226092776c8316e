// The configuration of a LLaMA-family decoder in our terms, and the reading of what its config.json's have in
// common. Each architecture's own reader is in the file named after its model_type.

import type { ActivationKind } from "../backend/backend.ts";
import type { RopeConfig } from "../nn/rope-frequencies.ts";
import { UserError } from "../util/errors.ts";
import { ConfigReader, type Json } from "./config-reader.ts";
import { readRope } from "./rope-config.ts";

export { ConfigReader, type Json } from "./config-reader.ts";

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

/** What most architectures of the family have not; a file that says nothing of a flag gets this. */
const plainDecoder = { qkvBias: false, outputBias: false, mlpBias: false, qkNorm: false } as const;

/** What all architectures of this family read alike, for each to change what differs. `normal` gives the transformers class's defaults. */
export function readCommon(
  json: Json,
  normal: { theta: number; tied: boolean; maxPositions: number; normEpsilon: number },
): DecoderConfig {
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
  const activation = Object.hasOwn(activations, name) ? activations[name] : undefined;
  if (!activation) {
    throw new UserError(
      `config.json: hidden_act "${name}" is not supported; supported are ${Object.keys(activations).join(", ")}`,
    );
  }
  const maxPositions = read.integer("max_position_embeddings", normal.maxPositions, 2 ** 31);
  const notes: string[] = [];
  const rope = readRope(json, { headWidth, maxPositions, theta: normal.theta }, (note) => notes.push(note));
  const layers = read.integer("num_hidden_layers", undefined, 1000);
  return {
    ...plainDecoder,
    windows: Array<number>(layers).fill(0),
    modelType: String(json.model_type),
    vocabularySize: read.integer("vocab_size"),
    width,
    layers,
    heads,
    kvHeads,
    headWidth,
    mlpWidth: read.integer("intermediate_size"),
    normEpsilon: read.number("rms_norm_eps", normal.normEpsilon),
    activation,
    tied: read.flag("tie_word_embeddings", normal.tied),
    rope,
    maxPositions,
    notes,
  };
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
