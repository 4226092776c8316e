// OLMo 3: OLMo 2 with a window on three layers of four and a RoPE for each kind of layer; YaRN is the full layers' alone.

import type { Architecture } from "./architecture.ts";
import { ConfigReader, eachLayer, readLayerTypes, readRopesFor, readWindow } from "./decoder-config.ts";
import { readOlmo } from "./olmo2.ts";

const usualTheta = 500_000;

export const olmo3: Architecture = {
  modelType: "olmo3",
  gguf: { name: "olmo2", interleaves: false, windows: true },
  readConfig(json) {
    const given = { sliding_window: 4096, ...json };
    const common = readOlmo(given, { tied: false, maxPositions: 2048, normEpsilon: 1e-5 });
    const types =
      readLayerTypes(given, common.layers.length, ["full_attention", "sliding_attention"]) ??
      common.layers.map((_, i) => ((i + 1) % 4 === 0 ? "full_attention" : "sliding_attention"));
    const window = readWindow(given);
    // A theta outside the objects is the full layers' alone, in transformers too.
    const { ropes, ropeOf } = readRopesFor(given, common, {
      full_attention: new ConfigReader(given).number("rope_theta", usualTheta),
      sliding_attention: usualTheta,
    });
    return {
      ...common,
      ropes,
      layers: eachLayer(common, (i) => ({
        window: types[i] === "sliding_attention" ? window : 0,
        rope: ropeOf(types[i]!),
      })),
    };
  },
};
