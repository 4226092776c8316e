// Qwen 3.5's and 3.6's mixtures of experts, text tower: the dense models' layers, with a router over experts and one more
// expert that every token goes to in place of the MLP.

import type { Architecture } from "./architecture.ts";
import { ConfigReader, eachLayer, type Json } from "./decoder-config.ts";
import { expertMetadata, readExpertCount } from "./mixture-config.ts";
import { qwen35Gguf, readHybrid } from "./qwen3-5-text.ts";

const hybrid = qwen35Gguf("qwen35moe");

export const qwen35MoeText: Architecture = {
  modelType: "qwen3_5_moe_text",
  gguf: {
    ...hybrid,
    metadata: (config) => ({
      ...hybrid.metadata!(config),
      ...expertMetadata(config),
      expert_shared_feed_forward_length: { type: "u32", value: config.layers[0]!.experts!.sharedWidth! },
    }),
  },
  readConfig(json: Json) {
    const read = new ConfigReader(json);
    const mlpWidth = read.integer("moe_intermediate_size", 512);
    const common = readHybrid({ ...json, intermediate_size: mlpWidth });
    const count = readExpertCount(json, 256);
    const experts = {
      count,
      perToken: read.integer("num_experts_per_tok", Math.min(8, count), count),
      sharedWidth: read.integer("shared_expert_intermediate_size", 512),
      ...{ normalized: true, bias: false, limit: 0, alpha: 0 },
    };
    return {
      ...common,
      mixture: { files: "gate_proj", allLinear: false },
      layers: eachLayer(common, () => ({ mlp: "mixture", experts })),
    };
  },
};
