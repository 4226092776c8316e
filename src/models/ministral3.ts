// Ministral 3: Mistral with YaRN, whose queries grow with their position beyond the original context.

import { type Architecture, refuseInGguf } from "./architecture.ts";
import {
  ConfigReader,
  eachLayer,
  type Json,
  type LayerRope,
  readCommon,
  readWindow,
} from "./decoder-config.ts";

const defaults = { num_key_value_heads: 8, head_dim: 128 };

const usualRope = {
  ...{ rope_type: "yarn", rope_theta: 1e6, factor: 16, original_max_position_embeddings: 16_384 },
  ...{ beta_fast: 32, beta_slow: 1, mscale_all_dim: 1, mscale: 1, llama_4_scaling_beta: 0.1 },
};

export const ministral3: Architecture = {
  modelType: "ministral3",
  gguf: {
    name: "mistral3",
    interleaves: true,
    metadata({ ropes }) {
      const [{ rope }] = ropes as [LayerRope];
      const { queryScale } = rope;
      refuseInGguf("mistral3", "has a RoPE other than YaRN", rope.type !== "yarn");
      const scale = queryScale?.beta ?? 0;
      refuseInGguf(
        "mistral3",
        "lets queries grow from another position than YaRN's original length",
        scale !== 0 && rope.type === "yarn" && queryScale!.originalMaxPositions !== rope.originalMaxPositions,
      );
      return { "attention.temperature_scale": { type: "f32", value: scale } };
    },
  },
  readConfig(json) {
    const given: Json = { ...defaults, ...json, rope_parameters: json.rope_parameters ?? usualRope };
    const common = readCommon(given, { theta: 10000, tied: false, maxPositions: 262_144, normEpsilon: 1e-5 });
    const window = readWindow(given);
    const [{ rope, headWidth }] = common.ropes as [LayerRope];
    const scaling = (given.rope_scaling ?? given.rope_parameters) as Json;
    const beta = new ConfigReader(scaling).number("llama_4_scaling_beta", 0);
    const originalMaxPositions = new ConfigReader({ ...scaling, ...own(given) }).integer(
      "original_max_position_embeddings",
      common.maxPositions,
      2 ** 31,
    );
    const queryScale = beta === 0 ? undefined : { beta, originalMaxPositions };
    return {
      ...common,
      ropes: [{ rope: { ...rope, queryScale }, headWidth }],
      layers: eachLayer(common, () => ({ window })),
    };
  },
};

/** A length outside the RoPE's own object is the stronger one. */
function own({ original_max_position_embeddings: length }: Json): Json {
  return length === undefined || length === null ? {} : { original_max_position_embeddings: length };
}
