// SmolLM3: LLaMA whose every fourth layer turns nothing (NoPE).

import { UserError } from "../util/errors.ts";
import { type Architecture, refuseInGguf } from "./architecture.ts";
import { ConfigReader, eachLayer, readCommon, readLayerTypes, readWindow } from "./decoder-config.ts";

const defaults = { num_key_value_heads: 4 };

export const smollm3: Architecture = {
  modelType: "smollm3",
  gguf: {
    name: "smollm3",
    interleaves: true,
    metadata({ layers, outputBias, mlpBias }) {
      const refuse = (what: string, refused: boolean) => refuseInGguf("smollm3", what, refused);
      refuse(
        "turns other layers than three of four",
        layers.some(({ rope }, i) => (rope === undefined) !== ((i + 1) % 4 === 0)),
      );
      refuse("has biases on what attention and MLP make", outputBias || mlpBias);
      return {};
    },
  },
  readConfig(json) {
    const given = { ...defaults, ...json };
    const read = new ConfigReader(given);
    const common = readCommon(given, { theta: 2e6, tied: true, maxPositions: 32_768, normEpsilon: 1e-6 });
    const count = common.layers.length;
    const interval = read.integer("no_rope_layer_interval", 4);
    const turning: unknown =
      json.no_rope_layers ?? common.layers.map((_, i) => ((i + 1) % interval === 0 ? 0 : 1));
    if (!Array.isArray(turning) || turning.length < count) {
      throw new UserError(
        `config.json: no_rope_layers should have 1 for each of ${count} layers that turns, 0 for others, found ${JSON.stringify(turning).slice(0, 80)}`,
      );
    }
    const window = readWindow(given);
    const types = readLayerTypes(given, count, ["full_attention", "sliding_attention"]);
    const windowed = (i: number) =>
      types ? types[i] === "sliding_attention" : read.flag("use_sliding_window", false) && !turning[i];
    const bias = read.flag("attention_bias", false);
    return {
      ...common,
      ...{ qkvBias: bias, outputBias: bias, mlpBias: read.flag("mlp_bias", false) },
      layers: eachLayer(common, (i, { rope }) => ({
        rope: turning[i] ? rope : undefined,
        window: windowed(i) ? window : 0,
      })),
    };
  },
};
