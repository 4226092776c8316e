// Qwen 3's mixtures of experts: its attention, and in most layers a router over experts in place of the MLP.

import { type Architecture, refuseInGguf } from "./architecture.ts";
import { ConfigReader, eachLayer, type Json, readCommon, readWindow } from "./decoder-config.ts";
import { denseLayers, expertMetadata, readExpertCount } from "./mixture-config.ts";

export const qwen3Moe: Architecture = {
  modelType: "qwen3_moe",
  gguf: {
    ...{ name: "qwen3moe", interleaves: false, parts: {} },
    metadata(config) {
      const isNormalized = config.layers[0]!.experts?.normalized === true;
      refuseInGguf(
        "qwen3moe",
        "does not bring its experts' weights to a sum of 1 (norm_topk_prob)",
        !isNormalized,
      );
      return expertMetadata(config);
    },
  },
  readConfig(json: Json) {
    const read = new ConfigReader(json);
    const common = readCommon(json, { theta: 10000, tied: false, maxPositions: 32768, normEpsilon: 1e-6 });
    const attentionBias = read.flag("attention_bias", false);
    const window = read.flag("use_sliding_window", false) ? readWindow({ sliding_window: 4096, ...json }) : 0;
    const count = readExpertCount(json, 128);
    const experts = {
      count,
      perToken: read.integer("num_experts_per_tok", 8, count),
      normalized: read.flag("norm_topk_prob", false),
      ...{ bias: false, limit: 0, alpha: 0 },
    };
    const width = read.integer("moe_intermediate_size", 768);
    const dense = denseLayers(json, common.layers.length);
    return {
      ...common,
      qkvBias: attentionBias,
      outputBias: attentionBias,
      qkNorm: "head",
      mixture: { files: "gate_proj", allLinear: true },
      layers: eachLayer(common, (i) => ({
        window,
        ...(dense(i) ? {} : { mlp: "mixture", mlpWidth: width, experts }),
      })),
    };
  },
};
