// Gemma 2: norms of 1 + w before and after each part, windows on every other layer, attention's scores and the logits bent
// by soft caps, GELU, embedded tokens times sqrt(C).

import { UserError } from "../util/errors.ts";
import { type Architecture, refuseInGguf } from "./architecture.ts";
import {
  ConfigReader,
  eachLayer,
  readCommon,
  readLayerTypes,
  readWindow,
  sandwichPaths,
} from "./decoder-config.ts";

/** Those of transformers' class: published files leave out what equals them. */
const defaults = {
  ...{ vocab_size: 256_000, hidden_size: 2304, intermediate_size: 9216, num_hidden_layers: 26 },
  ...{ num_attention_heads: 8, num_key_value_heads: 4, head_dim: 256, sliding_window: 4096 },
  ...{ hidden_activation: "gelu_pytorch_tanh", attn_logit_softcapping: 50, final_logit_softcapping: 30 },
} as const;

/** Layers of the size that llama.cpp scales by width over heads; every other by the head's width. */
const layers27B = 46;

export const gemma2: Architecture = {
  modelType: "gemma2",
  gguf: {
    name: "gemma2",
    interleaves: false,
    activations: ["geluTanh"],
    windows: true,
    metadata(config) {
      const { layers, width, heads, attentionSoftCap, logitSoftCap } = config;
      const { headWidth, attentionScale } = layers[0]!;
      const scaled = layers.length === layers27B ? width / heads : headWidth;
      if (Math.abs(attentionScale * Math.sqrt(scaled) - 1) > 1e-6) {
        throw new UserError(
          `llama.cpp scales Gemma 2's attention by 1/sqrt(${scaled}), and this model's query_pre_attn_scalar is ${Math.round(attentionScale ** -2)}: its GGUF would answer otherwise`,
        );
      }
      if (layers.some(({ window }, i) => window > 0 !== (i % 2 === 0)))
        throw new UserError("llama.cpp has windows on Gemma 2's even layers alone, and this model's differ");
      if (attentionSoftCap === 0 || logitSoftCap === 0)
        throw new UserError("llama.cpp caps Gemma 2's scores and logits always, and this model does not");
      // llama.cpp reads neither of them there.
      refuseInGguf("gemma2", "has biases in attention", config.qkvBias);
      refuseInGguf("gemma2", "has a head of its own", !config.tied);
      return {
        "attention.sliding_window": { type: "u32", value: layers[0]!.window },
        attn_logit_softcapping: { type: "f32", value: attentionSoftCap },
        final_logit_softcapping: { type: "f32", value: logitSoftCap },
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
      { theta: 10_000, tied: true, maxPositions: 8192, normEpsilon: 1e-6 },
    );
    const types =
      readLayerTypes(given, common.layers.length, ["full_attention", "sliding_attention"]) ??
      common.layers.map((_, i) => (i % 2 === 0 ? "sliding_attention" : "full_attention"));
    const window = readWindow(given);
    const bias = read.flag("attention_bias", false);
    const attentionScale = read.positive("query_pre_attn_scalar", 256) ** -0.5;
    return {
      ...common,
      ...{ qkvBias: bias, outputBias: bias, norms: "sandwich", normShift: 1, paths: sandwichPaths },
      ...{ embeddingScale: Math.sqrt(common.width), embeddingScaleRounded: true },
      attentionSoftCap: read.positiveOrNothing("attn_logit_softcapping"),
      logitSoftCap: read.positiveOrNothing("final_logit_softcapping"),
      layers: eachLayer(common, (i) => ({
        window: types[i] === "sliding_attention" ? window : 0,
        attentionScale,
      })),
    };
  },
};
