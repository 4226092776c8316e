// config.json's of models whose layers walk along sequences: what is read, worked out and refused, as transformers 5.24 does.

import { expect, it } from "vitest";
import { weightSpecs } from "../../src/models/decoder-weights.ts";
import { readModelConfig } from "../../src/models/index.ts";

const common = {
  ...{ vocab_size: 96, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 4, num_attention_heads: 4 },
  ...{ num_key_value_heads: 2, max_position_embeddings: 64 },
};
const qwen = {
  ...{ model_type: "qwen3_5_text", ...common, head_dim: 16 },
  ...{ linear_num_key_heads: 2, linear_num_value_heads: 6, linear_key_head_dim: 8, linear_value_head_dim: 4 },
};
const mixersOf = (json: Record<string, unknown>) => readModelConfig(json).layers.map(({ mixer }) => mixer);

it("qwen3_5: every fourth layer attends, or as config.json says", () => {
  expect(mixersOf(qwen)).toEqual(["deltaRule", "deltaRule", "deltaRule", "attention"]);
  expect(mixersOf({ ...qwen, full_attention_interval: 2 })).toEqual([
    ...["deltaRule", "attention"],
    ...["deltaRule", "attention"],
  ]);
  const layer_types = ["full_attention", "linear_attention", "linear_attention", "linear_attention"];
  expect(mixersOf({ ...qwen, layer_types })).toEqual(["attention", "deltaRule", "deltaRule", "deltaRule"]);
  expect(() => mixersOf({ ...qwen, layer_types: layer_types.slice(1) })).toThrow("should name 4 layers");
});

it("qwen3_5: shapes of both kinds of layers, and a quarter of each head turns unless config.json says otherwise", () => {
  const config = readModelConfig(qwen);
  const shapes = new Map(weightSpecs(config).map(({ name, shape }) => [name, shape]));
  expect(shapes.get("model.layers.0.linear_attn.in_proj_qkv.weight")).toEqual([2 * 2 * 8 + 6 * 4, 32]);
  expect(shapes.get("model.layers.0.linear_attn.conv1d.weight")).toEqual([56, 1, 4]);
  expect(shapes.get("model.layers.0.linear_attn.A_log")).toEqual([6]);
  expect(shapes.get("model.layers.0.linear_attn.out_proj.weight")).toEqual([32, 24]);
  expect(shapes.get("model.layers.3.self_attn.q_proj.weight")).toEqual([2 * 4 * 16, 32]);
  expect(shapes.has("model.layers.3.linear_attn.A_log")).toBe(false);
  expect(config.ropes[0]!.rope.rotaryWidth).toBe(4);
  const half = { rope_parameters: { rope_type: "default", rope_theta: 1e6, partial_rotary_factor: 0.5 } };
  expect(readModelConfig({ ...qwen, ...half }).ropes[0]!.rope.rotaryWidth).toBe(8);
});

it("qwen3_5: what cannot be is refused by name", () => {
  expect(() => readModelConfig({ ...qwen, linear_num_value_heads: 5 })).toThrow(
    "linear_num_value_heads 5 is not a multiple of linear_num_key_heads 2",
  );
  expect(() => readModelConfig({ ...qwen, linear_conv_kernel_dim: 1e9 })).toThrow("linear_conv_kernel_dim");
  expect(() => readModelConfig({ ...qwen, hidden_act: "gelu" })).toThrow("hidden_act gelu");
});

it("qwen3_5: a wrapper's text tower ties by its own flag, or the wrapper's where it has none", () => {
  const wrapper = (whole: object, text: object) =>
    readModelConfig({
      ...{ model_type: "qwen3_5", ...whole },
      text_config: { ...qwen, ...text },
    });
  expect(wrapper({}, {}).tied).toBe(false);
  expect(wrapper({ tie_word_embeddings: true }, {}).tied).toBe(true);
  expect(wrapper({ tie_word_embeddings: true }, { tie_word_embeddings: false }).tied).toBe(false);
  expect(wrapper({}, {}).tower).toEqual({ wrapper: "qwen3_5", modulePrefix: "model." });
});

it("qwen3_5_moe: experts in every layer, one of them for every token", () => {
  const { intermediate_size: _, ...json } = qwen;
  const mixture = { ...json, model_type: "qwen3_5_moe_text", num_experts: 4, moe_intermediate_size: 24 };
  const config = readModelConfig({ ...mixture, shared_expert_intermediate_size: 40 });
  const shapes = new Map(weightSpecs(config).map(({ name, shape }) => [name, shape]));
  expect(shapes.get("model.layers.0.mlp.shared_expert.up_proj.weight")).toEqual([40, 32]);
  expect(shapes.get("model.layers.0.mlp.shared_expert_gate.weight")).toEqual([1, 32]);
  expect(config.layers.map(({ experts, mlpWidth }) => [experts!.perToken, mlpWidth])).toEqual(
    Array(4).fill([4, 24]),
  );
  expect(config.mixture!.allLinear).toBe(false);
  const wrapped = readModelConfig({ model_type: "qwen3_5_moe", text_config: mixture });
  expect(wrapped.modelType).toBe("qwen3_5_moe_text");
});

const lfm2 = { model_type: "lfm2", ...common, intermediate_size: 100, block_multiple_of: 16 };

it("lfm2: its MLP's width is two thirds of another number, rounded up, or that number", () => {
  const width = (json: object) => readModelConfig({ ...lfm2, ...json }).layers[0]!.mlpWidth;
  expect(width({})).toBe(80);
  expect(width({ block_ff_dim: 150 })).toBe(112);
  expect(width({ block_ffn_dim_multiplier: 1.5 })).toBe(112);
  expect(width({ block_ffn_dim_multiplier: null })).toBe(66);
  expect(width({ block_auto_adjust_ff_dim: false })).toBe(100);
});

it("lfm2: which layers attend, its names and its tie", () => {
  expect(mixersOf(lfm2)).toEqual(Array(4).fill("attention"));
  const full_attn_idxs = [1, 3];
  const mixers = ["shortConvolution", "attention", "shortConvolution", "attention"];
  expect(mixersOf({ ...lfm2, full_attn_idxs })).toEqual(mixers);
  const config = readModelConfig({ ...lfm2, full_attn_idxs, conv_bias: true, conv_L_cache: 5 });
  const shapes = new Map(weightSpecs(config).map(({ name, shape }) => [name, shape]));
  expect(shapes.get("model.layers.0.conv.conv.weight")).toEqual([32, 1, 5]);
  expect(shapes.get("model.layers.0.conv.conv.bias")).toEqual([32]);
  expect(shapes.get("model.layers.0.conv.in_proj.bias")).toEqual([96]);
  expect(shapes.get("model.layers.1.self_attn.out_proj.weight")).toEqual([32, 32]);
  expect(shapes.get("model.layers.1.feed_forward.w2.weight")).toEqual([32, 80]);
  expect(shapes.has("model.embedding_norm.weight")).toBe(true);
  expect(config.tied).toBe(true);
  expect(readModelConfig({ ...lfm2, tie_embedding: false }).tied).toBe(false);
});
