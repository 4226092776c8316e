// OLMo 2: no norm before a block's parts but one after each, and RMSNorm over all of a token's q and k before the rotation.

import { type Architecture, refuseInGguf } from "./architecture.ts";
import {
  ConfigReader,
  type DecoderConfig,
  type Json,
  readCommon,
  type UsualValues,
} from "./decoder-config.ts";

export const postNormPaths = {
  attentionPostNorm: "post_attention_layernorm",
  mlpPostNorm: "post_feedforward_layernorm",
} as const;

/** What llama.cpp's like of both has not. */
export function refuseVariants({ layers, heads, width, qkvBias }: DecoderConfig): void {
  const { headWidth } = layers[0]!;
  refuseInGguf("olmo2", "has heads that are wider or narrower than the model", heads * headWidth !== width);
  refuseInGguf("olmo2", "has biases in attention", qkvBias);
}

/** What OLMo 2 and 3 have alike. */
export function readOlmo(json: Json, usual: UsualValues): DecoderConfig {
  const bias = new ConfigReader(json).flag("attention_bias", false);
  return {
    ...readCommon(json, usual),
    ...{ qkvBias: bias, outputBias: bias, qkNorm: "whole", norms: "post", paths: postNormPaths },
  };
}

export const olmo2: Architecture = {
  modelType: "olmo2",
  gguf: {
    name: "olmo2",
    interleaves: false,
    needsHead: true,
    metadata(config) {
      refuseVariants(config);
      return {};
    },
  },
  readConfig: (json) => readOlmo(json, { theta: 10000, tied: false, maxPositions: 2048, normEpsilon: 1e-5 }),
};
