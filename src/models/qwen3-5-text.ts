// Qwen 3.5, 3.6 and 3.8 (dense), text tower: three layers of linear attention by the gated delta rule to one of softmax
// attention whose output is gated; a quarter of each head turns; norms multiply by 1 + their weight. The whole models are
// text-tower.ts's.

import { UserError } from "../util/errors.ts";
import { type Architecture, type GgufArchitecture, refuseInGguf } from "./architecture.ts";
import {
  ConfigReader,
  type DecoderConfig,
  type DeltaConfig,
  eachLayer,
  type Json,
  type LayerConfig,
  readCommon,
  readLayerTypes,
} from "./decoder-config.ts";

/** Most tokens that a convolution's kernel sees. */
const mostTaps = 64;

/** As llama.cpp has the dense models, and as it has the mixtures. */
export const qwen35Gguf = (name: "qwen35" | "qwen35moe"): GgufArchitecture => ({
  name,
  interleaves: false,
  parts: { mlpNorm: "post_attention_norm" },
  metadata(config) {
    const refuse = (what: string, refused: boolean) => refuseInGguf(name, what, refused);
    const { layers, ropes, qkvBias } = config;
    const linear = layers.find(({ delta }) => delta);
    const interval = 1 + layers.findIndex(({ mixer }) => mixer === "attention") || layers.length + 1;
    const regular = layers.every(({ mixer }, i) => (mixer === "attention") === ((i + 1) % interval === 0));
    refuse("has attention in other layers than every so many", !regular || !linear);
    refuse("has biases in its attention", qkvBias);
    const { keyHeads, keyWidth, valueHeads, valueWidth } = linear!.delta!;
    refuse("has keys and values of different widths in its linear attention", keyWidth !== valueWidth);
    const u32 = (value: number) => ({ type: "u32", value }) as const;
    const rope = ropes[0]!;
    const pairs = (rope.rope.rotaryWidth ?? rope.headWidth) / 2;
    // Which of a picture's axes turns a pair: every third one each; a text's tokens have the same place on all.
    const sections = [0, 1, 2].map((axis) => Math.ceil((pairs - axis) / 3));
    return {
      "ssm.conv_kernel": u32(linear!.convolution!.taps),
      "ssm.state_size": u32(keyWidth),
      "ssm.group_count": u32(keyHeads),
      "ssm.time_step_rank": u32(valueHeads),
      "ssm.inner_size": u32(valueHeads * valueWidth),
      full_attention_interval: u32(interval),
      "rope.dimension_count": u32(2 * pairs),
      "rope.dimension_sections": { type: "array", of: "i32", value: [...sections, 0] },
    };
  },
});

export const qwen35Text: Architecture = {
  modelType: "qwen3_5_text",
  gguf: qwen35Gguf("qwen35"),
  readConfig: readHybrid,
};

/** What dense models and mixtures of experts have in common. */
export function readHybrid(json: Json): DecoderConfig {
  const read = new ConfigReader(json);
  const common = readCommon(
    { head_dim: 256, partial_rotary_factor: 0.25, ...json },
    { theta: 10000, tied: false, maxPositions: 32768, normEpsilon: 1e-6, partialByDefault: true },
  );
  const attentionBias = read.flag("attention_bias", false);
  const interval = read.integer("full_attention_interval", 4);
  const types =
    readLayerTypes(json, common.layers.length, ["linear_attention", "full_attention"]) ??
    common.layers.map((_, i) => ((i + 1) % interval === 0 ? "full_attention" : "linear_attention"));
  const recurrent = types.includes("linear_attention") ? linearLayer(read, common) : {};
  return {
    ...common,
    ...{ qkvBias: attentionBias, outputBias: attentionBias, gatedAttention: true },
    ...({ qkNorm: "head", normShift: 1 } as const),
    layers: eachLayer(common, (i) => (types[i] === "linear_attention" ? recurrent : {})),
  };
}

function linearLayer(read: ConfigReader, { activation }: DecoderConfig): Partial<LayerConfig> {
  const delta: DeltaConfig = {
    keyHeads: read.integer("linear_num_key_heads", 16),
    keyWidth: read.integer("linear_key_head_dim", 128, 4096),
    valueHeads: read.integer("linear_num_value_heads", 32),
    valueWidth: read.integer("linear_value_head_dim", 128, 4096),
  };
  const { keyHeads, keyWidth, valueHeads, valueWidth } = delta;
  if (valueHeads % keyHeads !== 0) {
    throw new UserError(
      `config.json: linear_num_value_heads ${valueHeads} is not a multiple of linear_num_key_heads ${keyHeads}`,
    );
  }
  if (activation !== "silu") {
    throw new UserError(
      `config.json: hidden_act ${activation} beside linear attention is not supported: its convolution is built for silu alone, which every released model has`,
    );
  }
  const taps = read.integer("linear_conv_kernel_dim", 4, mostTaps);
  const channels = 2 * keyHeads * keyWidth + valueHeads * valueWidth;
  return { mixer: "deltaRule", delta, convolution: { channels, taps, bias: false }, rope: undefined };
}
