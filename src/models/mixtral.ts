// Mixtral: Mistral's attention, and eight experts in every layer, two of them for each token.

import type { Architecture } from "./architecture.ts";
import { ConfigReader, eachLayer, type Json, readCommon, readWindow } from "./decoder-config.ts";
import { expertMetadata, readExpertCount } from "./mixture-config.ts";

export const mixtral: Architecture = {
  modelType: "mixtral",
  gguf: { name: "llama", interleaves: true, metadata: expertMetadata },
  readConfig(json: Json) {
    const read = new ConfigReader(json);
    const { head_dim: headWidth, ...rest } = json;
    const common = readCommon(headWidth === null ? rest : json, {
      ...{ theta: 1e6, tied: false, maxPositions: 131072, normEpsilon: 1e-5 },
    });
    const count = readExpertCount(json, 8);
    const experts = {
      count,
      perToken: read.integer("num_experts_per_tok", 2, count),
      ...{ normalized: true, bias: false, limit: 0, alpha: 0 },
    };
    const jitter = read.number("router_jitter_noise", 0);
    const notes =
      jitter > 0
        ? [
            `router_jitter_noise ${jitter} is not used: transformers shakes a router's input by so much while it trains, here it trains as it answers`,
          ]
        : [];
    const window = readWindow(json);
    return {
      ...common,
      mixture: { files: "w1", allLinear: true },
      notes: [...common.notes, ...notes],
      layers: eachLayer(common, () => ({ window, mlp: "mixture", experts })),
    };
  },
};
