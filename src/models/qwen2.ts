// Qwen 2 and 2.5: biases on q, k and v; the smaller ones tie the head to the embedding.

import type { Architecture } from "./architecture.ts";
import { ConfigReader, eachLayer, readCommon, readWindows } from "./decoder-config.ts";

export const qwen2: Architecture = {
  modelType: "qwen2",
  gguf: { name: "qwen2", interleaves: false },
  readConfig(json) {
    const read = new ConfigReader(json);
    const common = readCommon(json, { theta: 10000, tied: false, maxPositions: 32768, normEpsilon: 1e-6 });
    const windows = readWindows(
      json,
      common.layers.length,
      read.flag("use_sliding_window", false),
      Number(json.max_window_layers ?? 28),
    );
    return {
      ...common,
      qkvBias: true,
      layers: eachLayer(common, (i) => ({ window: windows[i]! })),
    };
  },
};
