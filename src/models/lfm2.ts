// LFM2: gated short convolutions as mixers of most layers, attention with normed heads in the rest, tied. Its MLP's width
// is worked out of another number.

import { type Architecture, refuseInGguf } from "./architecture.ts";
import { ConfigReader, eachLayer, type Json, readCommon, readLayerTypes } from "./decoder-config.ts";

/** Most tokens that a convolution's kernel sees. */
const mostTaps = 64;

export const lfm2: Architecture = {
  modelType: "lfm2",
  gguf: {
    name: "lfm2",
    interleaves: false,
    finalNorm: "token_embd_norm",
    headsOfMixers: true,
    metadata({ layers, vocabularySize }) {
      const convolution = layers.find((layer) => layer.convolution)?.convolution;
      refuseInGguf("lfm2", "has no short convolutions", !convolution);
      refuseInGguf("lfm2", "has biases in its short convolutions", convolution!.bias);
      const u32 = (value: number) => ({ type: "u32", value }) as const;
      return { "shortconv.l_cache": u32(convolution!.taps), vocab_size: u32(vocabularySize) };
    },
  },
  readConfig(json) {
    const read = new ConfigReader(json);
    const common = readCommon(
      {
        ...json,
        hidden_act: "silu",
        rms_norm_eps: read.number("norm_eps", 1e-5),
        intermediate_size: mlpWidth(json),
        tie_word_embeddings: read.flag("tie_embedding", read.flag("tie_word_embeddings", true)),
      },
      { theta: 1e6, tied: true, maxPositions: 128_000, normEpsilon: 1e-5 },
    );
    const layers = common.layers.length;
    const { full_attn_idxs: attending } = json;
    const types =
      readLayerTypes(json, layers, ["full_attention", "conv"]) ??
      common.layers.map((_, i) =>
        Array.isArray(attending) && !attending.includes(i) ? "conv" : "full_attention",
      );
    const convolution = {
      channels: common.width,
      taps: read.integer("conv_L_cache", 3, mostTaps),
      bias: read.flag("conv_bias", false),
    };
    return {
      ...common,
      qkNorm: "head",
      finalNorm: "model.embedding_norm",
      paths: {
        ...{ attentionNorm: "operator_norm", mlpNorm: "ffn_norm" },
        ...{ gate: "feed_forward.w1", up: "feed_forward.w3", down: "feed_forward.w2" },
        ...{ o: "self_attn.out_proj", qNorm: "self_attn.q_layernorm", kNorm: "self_attn.k_layernorm" },
      },
      layers: eachLayer(common, (i) =>
        types[i] === "conv" ? { mixer: "shortConvolution", convolution, rope: undefined } : {},
      ),
    };
  },
};

/** What transformers' Lfm2MLP makes of the number in config.json. */
function mlpWidth(json: Json): number {
  const read = new ConfigReader(json);
  const given = read.integer("block_ff_dim", read.integer("intermediate_size", 12288));
  if (!read.flag("block_auto_adjust_ff_dim", true)) return given;
  const share = Math.trunc((2 * given) / 3);
  if (json.block_ffn_dim_multiplier === null) return share;
  const scaled = Math.trunc(read.number("block_ffn_dim_multiplier", 1) * share);
  const multiple = read.integer("block_multiple_of", 256);
  return multiple * Math.ceil(scaled / multiple);
}
