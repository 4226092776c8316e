// Qwen 3 (dense): RMSNorm on each head of q and k, an explicit head width, no biases unless asked.

import type { Architecture } from "./architecture.ts";
import { ConfigReader, eachLayer, readCommon, readWindows } from "./decoder-config.ts";

export const qwen3: Architecture = {
  modelType: "qwen3",
  gguf: { name: "qwen3", interleaves: false },
  readConfig(json) {
    const read = new ConfigReader(json);
    const common = readCommon(
      { head_dim: 128, ...json },
      { theta: 10000, tied: false, maxPositions: 32768, normEpsilon: 1e-6 },
    );
    const attentionBias = read.flag("attention_bias", false);
    const windows = readWindows(
      json,
      common.layers.length,
      read.flag("use_sliding_window", false),
      Number(json.max_window_layers ?? 28),
    );
    return {
      ...common,
      qkvBias: attentionBias,
      outputBias: attentionBias,
      qkNorm: "head",
      layers: eachLayer(common, (i) => ({ window: windows[i]! })),
    };
  },
};
