// LLaMA 1, 2 and 3.x, TinyLlama, SmolLM: the plain decoder (Touvron et al. 2023).

import type { Architecture } from "./architecture.ts";
import { ConfigReader, readCommon } from "./decoder-config.ts";

export const llama: Architecture = {
  modelType: "llama",
  gguf: { name: "llama", interleaves: true, ropeFactors: true },
  readConfig(json) {
    const read = new ConfigReader(json);
    const common = readCommon(json, { theta: 10000, tied: false, maxPositions: 2048, normEpsilon: 1e-6 });
    const attentionBias = read.flag("attention_bias", false);
    return {
      ...common,
      qkvBias: attentionBias,
      outputBias: attentionBias,
      mlpBias: read.flag("mlp_bias", false),
    };
  },
};
