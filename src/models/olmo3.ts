// OLMo 3: OLMo 2 with a window on three layers of four and a RoPE for each kind of layer; YaRN is the full layers' alone.

import { type Architecture, refuseInGguf } from "./architecture.ts";
import {
  ConfigReader,
  eachLayer,
  type LayerRope,
  readLayerTypes,
  readRopesFor,
  readWindow,
} from "./decoder-config.ts";
import { readOlmo, refuseVariants } from "./olmo2.ts";

const usualTheta = 500_000;

export const olmo3: Architecture = {
  modelType: "olmo3",
  gguf: {
    name: "olmo2",
    interleaves: false,
    windows: true,
    needsHead: true,
    metadata(config) {
      const { layers, ropes } = config;
      refuseVariants(config);
      const refuse = (what: string, refused: boolean) => refuseInGguf("olmo2", what, refused);
      const regular = layers.every(({ window }, i) => window > 0 === ((i + 1) % 4 !== 0));
      refuse("has its windows on other layers than three of four", !regular);
      const [full, sliding] = ropes as [LayerRope, LayerRope];
      refuse("turns its windowed layers otherwise than plainly", sliding.rope.type !== "default");
      refuse("turns its windowed layers on another base", sliding.rope.theta !== full.rope.theta);
      const { window } = layers.find((layer) => layer.window > 0) ?? { window: config.maxPositions };
      return {
        "attention.sliding_window": { type: "u32", value: window },
        "attention.sliding_window_pattern": {
          ...{ type: "array", of: "bool" },
          value: layers.map((layer) => layer.window > 0),
        },
      };
    },
  },
  readConfig(json) {
    const given = { sliding_window: 4096, ...json };
    const common = readOlmo(given, { tied: false, maxPositions: 2048, normEpsilon: 1e-5 });
    const types =
      readLayerTypes(given, common.layers.length, ["full_attention", "sliding_attention"]) ??
      common.layers.map((_, i) => ((i + 1) % 4 === 0 ? "full_attention" : "sliding_attention"));
    const window = readWindow(given);
    // A theta outside the objects is the full layers' alone, in transformers too.
    const { ropes, notes, ropeOf } = readRopesFor(given, common, {
      full_attention: new ConfigReader(given).number("rope_theta", usualTheta),
      sliding_attention: usualTheta,
    });
    return {
      ...common,
      ropes,
      notes,
      layers: eachLayer(common, (i) => ({
        window: types[i] === "sliding_attention" ? window : 0,
        rope: ropeOf(types[i]!),
      })),
    };
  },
};
