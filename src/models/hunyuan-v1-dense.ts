// Hunyuan (dense): RMSNorm on heads of q and k after the rotation, whose base may be stretched once for all (alpha).

import { type Architecture, refuseInGguf } from "./architecture.ts";
import { ConfigReader, type Json, readCommon } from "./decoder-config.ts";

export const hunyuanV1Dense: Architecture = {
  modelType: "hunyuan_v1_dense",
  gguf: {
    name: "hunyuan-dense",
    interleaves: false,
    metadata({ qkvBias }) {
      refuseInGguf("hunyuan-dense", "has biases in attention", qkvBias);
      return {};
    },
  },
  readConfig(json) {
    const read = new ConfigReader(json);
    const bias = read.flag("attention_bias", false);
    return {
      ...readCommon(withStretchedBase(json), {
        ...{ theta: 10000, tied: false, maxPositions: 2048, normEpsilon: 1e-5 },
      }),
      ...{ qkvBias: bias, outputBias: bias, qkNorm: "head", qkNormAfterRope: true },
      paths: { qNorm: "self_attn.query_layernorm", kNorm: "self_attn.key_layernorm" },
    };
  },
};

/** Type "dynamic" with an alpha is the plain RoPE of base theta * alpha^(D / (D - 2)), at every length. */
function withStretchedBase(json: Json): Json {
  const rope = (json.rope_scaling ?? json.rope_parameters ?? {}) as Json;
  const alpha = rope.alpha ?? 0;
  if ((rope.rope_type ?? rope.type) !== "dynamic" || alpha === 0) return json;
  const read = new ConfigReader({ ...json, ...rope });
  const width = new ConfigReader(json).integer(
    "head_dim",
    read.integer("hidden_size") / read.integer("num_attention_heads"),
  );
  const theta = read.positive("rope_theta", 10000) * read.positive("alpha") ** (width / (width - 2));
  return { ...json, rope_scaling: undefined, rope_parameters: { rope_type: "default", rope_theta: theta } };
}
