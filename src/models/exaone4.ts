// EXAONE 4: norms after a block's parts alone, RMSNorm on heads of q and k, and, where there is a window, RoPE on the
// windowed layers only.

import type { GgufValue } from "../formats/gguf.ts";
import { type Architecture, refuseInGguf } from "./architecture.ts";
import { ConfigReader, eachLayer, readCommon, readLayerTypes, readWindow } from "./decoder-config.ts";
import { postNormPaths } from "./olmo2.ts";

const defaults = { num_key_value_heads: 32, sliding_window: 4096, sliding_window_pattern: 4 };

export const exaone4: Architecture = {
  modelType: "exaone4",
  gguf: {
    name: "exaone4",
    interleaves: false,
    windows: true,
    ropeFactors: true,
    metadata({ layers }): Readonly<Record<string, GgufValue>> {
      const sliding = layers.find(({ window }) => window > 0);
      if (!sliding) return {};
      // Windows are those of its largest size there.
      const regular =
        layers.length === 64 && layers.every(({ window }, i) => window > 0 === ((i + 1) % 4 !== 0));
      refuseInGguf("exaone4", "has windows otherwise than on three of four of 64 layers", !regular);
      return {
        "attention.sliding_window": { type: "u32", value: sliding.window },
        "attention.sliding_window_pattern": {
          ...{ type: "array", of: "bool" },
          value: layers.map(({ window }) => window > 0),
        },
      };
    },
  },
  readConfig(json) {
    const given = { ...defaults, ...json };
    const common = readCommon(given, { theta: 10000, tied: false, maxPositions: 2048, normEpsilon: 1e-5 });
    const window = readWindow(given);
    const pattern = window === 0 ? 1 : patternOf(given.sliding_window_pattern, given);
    const types =
      readLayerTypes(given, common.layers.length, ["full_attention", "sliding_attention"]) ??
      common.layers.map((_, i) => ((i + 1) % pattern === 0 ? "full_attention" : "sliding_attention"));
    return {
      ...common,
      ...{ qkNorm: "head", norms: "post", paths: postNormPaths },
      layers: eachLayer(common, (i, { rope }) => {
        const slides = types[i] === "sliding_attention" && window > 0;
        return { window: slides ? window : 0, rope: window === 0 || slides ? rope : undefined };
      }),
    };
  },
};

/** A number, or letters of a period ("LLLG"). */
function patternOf(pattern: unknown, json: Readonly<Record<string, unknown>>): number {
  if (typeof pattern === "string" && pattern.length > 0) return pattern.length;
  return new ConfigReader(json).integer("sliding_window_pattern");
}
