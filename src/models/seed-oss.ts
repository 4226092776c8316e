// Seed-OSS: LLaMA with an explicit head width and flags of its own for the biases of q, k, v and of o.

import { type Architecture, refuseInGguf } from "./architecture.ts";
import { ConfigReader, readCommon } from "./decoder-config.ts";

const defaults = { num_key_value_heads: 8, head_dim: 128 };

export const seedOss: Architecture = {
  modelType: "seed_oss",
  gguf: {
    name: "seed_oss",
    interleaves: false,
    parts: { mlpNorm: "post_attention_norm" },
    metadata({ outputBias, mlpBias }) {
      refuseInGguf("seed_oss", "has biases on what attention and MLP make", outputBias || mlpBias);
      return {};
    },
  },
  readConfig(json) {
    const given = { ...defaults, ...json };
    const read = new ConfigReader(given);
    return {
      ...readCommon(given, { theta: 10000, tied: false, maxPositions: 524_288, normEpsilon: 1e-6 }),
      qkvBias: read.flag("attention_bias", true),
      outputBias: read.flag("attention_out_bias", false),
      mlpBias: read.flag("mlp_bias", false),
    };
  },
};
