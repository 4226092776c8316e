// gpt-oss: experts in every layer whose activation is held within a limit, attention with a sink for each head and a window
// in every other layer, biases on everything.

import type { GgufValue } from "../formats/gguf.ts";
import { UserError } from "../util/errors.ts";
import { type Architecture, refuseInGguf } from "./architecture.ts";
import {
  ConfigReader,
  type DecoderConfig,
  eachLayer,
  type Json,
  type LayerConfig,
  readCommon,
  readLayerTypes,
  readWindow,
} from "./decoder-config.ts";
import { expertMetadata, readExpertCount } from "./mixture-config.ts";

/** What transformers' class has where config.json says nothing. */
const usualRope = {
  ...{ rope_type: "yarn", factor: 32, beta_fast: 32, beta_slow: 1 },
  ...{ truncate: false, original_max_position_embeddings: 4096 },
};

/** UserError for windows in other layers than llama.cpp has them in. */
function ggufMetadata(config: DecoderConfig): Readonly<Record<string, GgufValue>> {
  const [{ window }] = config.layers as [LayerConfig];
  if (window === 0 || config.layers.some((layer, i) => layer.window !== (i % 2 === 0 ? window : 0)))
    throw new UserError(
      "llama.cpp has gpt-oss with an attention window in every other layer, from the first on, and this model has others; it cannot be exported to GGUF",
    );
  for (const { experts } of config.layers) {
    refuseInGguf(
      "gpt-oss",
      "holds its experts' activation within another limit than 7",
      experts?.limit !== 7,
    );
    refuseInGguf("gpt-oss", "bends it by another factor than 1.702", experts?.alpha !== 1.702);
  }
  return { ...expertMetadata(config), "attention.sliding_window": { type: "u32", value: window } };
}

export const gptOss: Architecture = {
  modelType: "gpt_oss",
  gguf: {
    name: "gpt-oss",
    interleaves: false,
    windows: true,
    roundsYarn: true,
    parts: { mlpNorm: "post_attention_norm" },
    metadata: ggufMetadata,
  },
  readConfig(json: Json) {
    const says = json.rope_parameters ?? json.rope_scaling;
    const given: Json = {
      ...{ head_dim: 64, num_attention_heads: 64, num_key_value_heads: 8 },
      ...json,
      ...(says === undefined || says === null ? { rope_scaling: usualRope } : {}),
    };
    const read = new ConfigReader(given);
    const common = readCommon(given, {
      ...{ theta: 150000, tied: false, maxPositions: 131072, normEpsilon: 1e-5 },
    });
    const count = readExpertCount(json, 128);
    const experts = {
      count,
      perToken: read.integer("num_experts_per_tok", 4, count),
      ...{ normalized: true, bias: true },
      limit: read.number("swiglu_limit", 7),
      alpha: read.number("swiglu_alpha", 1.702),
    };
    const bias = read.flag("attention_bias", true);
    const window = readWindow({ sliding_window: 128, ...json });
    const types =
      readLayerTypes(json, common.layers.length, ["full_attention", "sliding_attention"]) ??
      common.layers.map((_, i) => (i % 2 === 0 ? "sliding_attention" : "full_attention"));
    return {
      ...common,
      ...{ qkvBias: bias, outputBias: bias, attentionSinks: true },
      paths: { router: "mlp.router" },
      mixture: { files: "interleaved", allLinear: false },
      layers: eachLayer(common, (i) => ({
        ...{ mlp: "mixture", experts },
        window: types[i] === "sliding_attention" ? window : 0,
      })),
    };
  },
};
