// Gemma 3 (text): norms of 1 + w before and after each part, RMSNorm on heads of q and k, five windowed layers to one that
// sees everything, each kind with a RoPE of its own, GELU, embedded tokens times sqrt(C).

import { UserError } from "../util/errors.ts";
import { type Architecture, refuseInGguf } from "./architecture.ts";
import {
  ConfigReader,
  eachLayer,
  readCommon,
  readLayerTypes,
  readRopesFor,
  readWindow,
  sandwichPaths,
} from "./decoder-config.ts";

/** Those of transformers' class: published files leave out what equals them. */
const defaults = {
  ...{ vocab_size: 262_208, hidden_size: 2304, intermediate_size: 9216, num_hidden_layers: 26 },
  ...{ num_attention_heads: 8, num_key_value_heads: 4, head_dim: 256, sliding_window: 4096 },
  hidden_activation: "gelu_pytorch_tanh",
} as const;

export const gemma3Text: Architecture = {
  modelType: "gemma3_text",
  gguf: {
    name: "gemma3",
    interleaves: false,
    activations: ["geluTanh"],
    windows: true,
    metadata(config) {
      const { layers, ropes, width, heads } = config;
      const refuse = (what: string, refused: boolean) => refuseInGguf("gemma3", what, refused);
      const { headWidth, attentionScale } = layers[0]!;
      // The largest size has a scale of its own there.
      const usual = layers.length === 62 ? width / heads : headWidth;
      refuse("scales scores by another number than its heads' width", attentionScale !== usual ** -0.5);
      refuse("has biases in attention", config.qkvBias);
      const sliding = layers.filter(({ window }) => window > 0);
      const regular = layers.every(({ window }, i) => window > 0 === ((i + 1) % 6 !== 0));
      refuse("has its windows on other layers than five of six", !regular);
      const local = ropes[1]!.rope;
      refuse("turns its windowed layers otherwise than plainly", local.type !== "default");
      return {
        "attention.sliding_window": { type: "u32", value: sliding[0]?.window ?? config.maxPositions },
        "rope.freq_base_swa": { type: "f32", value: local.theta },
        ...(config.logitSoftCap > 0
          ? { final_logit_softcapping: { type: "f32", value: config.logitSoftCap } }
          : {}),
      };
    },
  },
  readConfig(json) {
    const given = { ...defaults, ...json };
    const read = new ConfigReader(given);
    if (read.flag("use_bidirectional_attention", false)) {
      throw new UserError(
        "config.json: use_bidirectional_attention is set: an encoder, whose tokens see what follows them; lowrank trains models that predict what follows",
      );
    }
    const common = readCommon(
      { ...given, hidden_act: given.hidden_activation },
      { tied: true, maxPositions: 131_072, normEpsilon: 1e-6 },
    );
    const count = common.layers.length;
    const pattern = read.integer("sliding_window_pattern", 6);
    const types =
      readLayerTypes(given, count, ["full_attention", "sliding_attention"]) ??
      common.layers.map((_, i) => ((i + 1) % pattern === 0 ? "full_attention" : "sliding_attention"));
    const window = readWindow(given);
    const { ropes, notes, ropeOf } = readRopesFor(given, common, {
      full_attention: read.number("rope_theta", 1e6),
      sliding_attention: read.number("rope_local_base_freq", 1e4),
    });
    const bias = read.flag("attention_bias", false);
    const attentionScale = read.positive("query_pre_attn_scalar", 256) ** -0.5;
    return {
      ...common,
      ...{ qkvBias: bias, outputBias: bias, qkNorm: "head", norms: "sandwich", normShift: 1 },
      paths: sandwichPaths,
      ...{ embeddingScale: Math.sqrt(common.width), embeddingScaleRounded: true },
      logitSoftCap: read.positiveOrNothing("final_logit_softcapping"),
      ropes,
      notes,
      layers: eachLayer(common, (i) => ({
        window: types[i] === "sliding_attention" ? window : 0,
        rope: ropeOf(types[i]!),
        attentionScale,
      })),
    };
  },
};
