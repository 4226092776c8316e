// Mistral: LLaMA with a sliding attention window on every layer (Jiang et al. 2023).

import type { Architecture } from "./architecture.ts";
import { eachLayer, readCommon, readWindow } from "./decoder-config.ts";

export const mistral: Architecture = {
  modelType: "mistral",
  gguf: { name: "llama", interleaves: true, ropeFactors: true },
  readConfig(json) {
    const common = readCommon(json, { theta: 10000, tied: false, maxPositions: 131072, normEpsilon: 1e-6 });
    const window = readWindow({ sliding_window: 4096, ...json });
    return { ...common, layers: eachLayer(common, () => ({ window })) };
  },
};
