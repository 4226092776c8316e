// What config.json says of each architecture of llama.cpp's beside what all have (config.ts): the inverse of the
// architectures' own `gguf.metadata`. Gemma 4 is gemma4-config.ts's.

import type { Json } from "../decoder-config.ts";
import { gemma4Config } from "./gemma4-config.ts";
import type { Metadata } from "./metadata.ts";

type Reader = (meta: Metadata, common: Json) => Json | Promise<Json>;

const experts = (meta: Metadata) => ({
  num_experts_per_tok: meta.number("expert_used_count"),
  moe_intermediate_size: meta.optional("expert_feed_forward_length") ?? meta.number("feed_forward_length"),
});

const kinds = (common: Json, isSliding: (layer: number) => boolean): Json => ({
  layer_types: Array.from({ length: Number(common.num_hidden_layers) }, (_, i) =>
    isSliding(i) ? "sliding_attention" : "full_attention",
  ),
});

/** By llama.cpp's names. */
export const readers: Readonly<Record<string, Reader>> = {
  llama(meta, common) {
    const biases = {
      attention_bias: meta.has("blk.0.attn_output.bias"),
      mlp_bias: meta.has("blk.0.ffn_down.bias"),
    };
    if (!meta.optional("expert_count")) return { model_type: "llama", ...common, ...biases };
    return {
      ...{ model_type: "mixtral", ...common },
      num_local_experts: meta.number("expert_count"),
      num_experts_per_tok: meta.number("expert_used_count"),
      intermediate_size: meta.optional("expert_feed_forward_length") ?? meta.number("feed_forward_length"),
    };
  },
  mistral3: (meta, common) => ({
    ...{ model_type: "ministral3", ...common },
    rope_parameters: {
      ...(common.rope_parameters as Json),
      llama_4_scaling_beta: meta.number("attention.temperature_scale", 0),
    },
  }),
  qwen2: (_, common) => ({ model_type: "qwen2", ...common, use_sliding_window: false }),
  qwen3: (meta, common) => ({
    ...{ model_type: "qwen3", ...common, use_sliding_window: false },
    attention_bias: meta.has("blk.0.attn_q.bias"),
  }),
  qwen3moe: (meta, common) => ({
    ...{ model_type: "qwen3_moe", ...common, use_sliding_window: false, ...experts(meta) },
    num_experts: meta.number("expert_count"),
    norm_topk_prob: true,
  }),
  gemma2: (meta, common) => ({
    ...{ model_type: "gemma2", ...common, ...gemma(meta, common, 46) },
    attn_logit_softcapping: meta.number("attn_logit_softcapping", 50),
    final_logit_softcapping: meta.number("final_logit_softcapping", 30),
    sliding_window: meta.number("attention.sliding_window", 4096),
    ...kinds(common, (layer) => layer % 2 === 0),
  }),
  gemma3: (meta, common) => ({
    ...{ model_type: "gemma3_text", ...common, ...gemma(meta, common, 62) },
    sliding_window: meta.number("attention.sliding_window"),
    ...kinds(common, (layer) => (layer + 1) % 6 !== 0),
    final_logit_softcapping: meta.optional("final_logit_softcapping") || null,
    rope_parameters: {
      full_attention: common.rope_parameters,
      sliding_attention: { rope_type: "default", rope_theta: meta.number("rope.freq_base_swa", 10_000) },
    },
  }),
  phi3: (meta, common) => ({
    ...{ model_type: "phi3", ...common },
    sliding_window: meta.optional("attention.sliding_window") || null,
    pad_token_id: null,
    // Its class reads this one beside the RoPE, not in it.
    original_max_position_embeddings:
      (common.rope_parameters as Json).original_max_position_embeddings ?? common.max_position_embeddings,
  }),
  granite: (meta, common) => ({
    ...{ model_type: "granite", ...common },
    attention_bias: meta.has("blk.0.attn_output.bias"),
    mlp_bias: meta.has("blk.0.ffn_down.bias"),
    attention_multiplier: meta.number("attention.scale"),
    embedding_multiplier: meta.number("embedding_scale", 1),
    residual_multiplier: meta.number("residual_scale", 1),
    logits_scaling: meta.number("logit_scale", 1),
  }),
  smollm3: (meta, common) => ({
    ...{ model_type: "smollm3", ...common, no_rope_layer_interval: 4, use_sliding_window: false },
    attention_bias: meta.has("blk.0.attn_q.bias"),
  }),
  olmo2(meta, common) {
    const window = meta.optional("attention.sliding_window");
    if (window === undefined) return { model_type: "olmo2", ...common };
    return {
      ...{ model_type: "olmo3", ...common, sliding_window: window },
      ...kinds(common, (layer) => (layer + 1) % 4 !== 0),
      rope_parameters: {
        full_attention: common.rope_parameters,
        sliding_attention: {
          rope_type: "default",
          rope_theta: (common.rope_parameters as Json).rope_theta,
        },
      },
    };
  },
  seed_oss: (meta, common) => ({
    ...{ model_type: "seed_oss", ...common, attention_out_bias: false },
    attention_bias: meta.has("blk.0.attn_q.bias"),
  }),
  "hunyuan-dense": (_, common) => ({ model_type: "hunyuan_v1_dense", ...common }),
  "gpt-oss": (meta, common) => ({
    ...{ model_type: "gpt_oss", ...common },
    attention_bias: meta.has("blk.0.attn_q.bias"),
    num_local_experts: meta.number("expert_count"),
    num_experts_per_tok: meta.number("expert_used_count"),
    intermediate_size: meta.optional("expert_feed_forward_length") ?? meta.number("feed_forward_length"),
    sliding_window: meta.number("attention.sliding_window", 128),
    ...kinds(common, (layer) => layer % 2 === 0),
    // Its ramp has fractions of pairs, which GGUF has no key for.
    rope_parameters: { ...(common.rope_parameters as Json), truncate: false },
  }),
  gemma4: gemma4Config,
  exaone4(meta, common) {
    const layers = Number(common.num_hidden_layers);
    const slides = meta.flags("attention.sliding_window_pattern", layers);
    const window = meta.optional("attention.sliding_window") || null;
    // Windows are those of its largest size there, pattern or none.
    const windowed = window !== null && (slides !== undefined || layers === 64);
    return {
      ...{ model_type: "exaone4", ...common, sliding_window: windowed ? window : null },
      ...kinds(common, (layer) => windowed && (slides ? slides[layer]! : (layer + 1) % 4 !== 0)),
    };
  },
  lfm2(meta, common) {
    const keyHeads = meta.perLayer("attention.head_count_kv", Number(common.num_hidden_layers));
    const attends = keyHeads.map((heads) => heads > 0);
    return {
      ...{ model_type: "lfm2", ...common, norm_eps: common.rms_norm_eps },
      ...{ block_auto_adjust_ff_dim: false, conv_bias: false },
      tie_embedding: common.tie_word_embeddings,
      conv_L_cache: meta.number("shortconv.l_cache"),
      layer_types: attends.map((is) => (is ? "full_attention" : "conv")),
    };
  },
  qwen35: (meta, common) => ({ model_type: "qwen3_5_text", ...common, ...linearAttention(meta, common) }),
  qwen35moe: (meta, common) => ({
    ...{ model_type: "qwen3_5_moe_text", ...common, ...linearAttention(meta, common), ...experts(meta) },
    num_experts: meta.number("expert_count"),
    shared_expert_intermediate_size: meta.number("expert_shared_feed_forward_length"),
  }),
};

/** Architectures whose layers may have different numbers of heads and widths. */
export const layersDiffer: ReadonlySet<string> = new Set(["gemma4", "lfm2"]);

/** Keys of Qwen 3.5's layers without softmax. Sizes that stand in no ratio are for config.json's reader to refuse. */
function linearAttention(meta: Metadata, common: Json): Json {
  const interval = meta.number("full_attention_interval", 4);
  const valueHeads = meta.number("ssm.time_step_rank");
  const { rope_parameters: rope, head_dim: headWidth } = common;
  return {
    attention_bias: false,
    linear_conv_kernel_dim: meta.number("ssm.conv_kernel"),
    linear_key_head_dim: meta.number("ssm.state_size"),
    linear_value_head_dim: meta.number("ssm.inner_size") / valueHeads,
    linear_num_key_heads: meta.number("ssm.group_count"),
    linear_num_value_heads: valueHeads,
    full_attention_interval: interval,
    layer_types: Array.from({ length: Number(common.num_hidden_layers) }, (_, i) =>
      (i + 1) % interval === 0 ? "full_attention" : "linear_attention",
    ),
    rope_parameters: {
      ...(rope as Json),
      partial_rotary_factor: meta.number("rope.dimension_count", Number(headWidth)) / Number(headWidth),
    },
  };
}

/** Gemma's scale of scores, which has no key: by the head's width, but in the largest size. */
function gemma(meta: Metadata, common: Json, layersOfLargest: number): Json {
  const {
    num_hidden_layers: layers,
    hidden_size: width,
    num_attention_heads: heads,
    head_dim: head,
  } = common;
  return {
    query_pre_attn_scalar: layers === layersOfLargest ? Number(width) / Number(heads) : head,
    hidden_activation: "gelu_pytorch_tanh",
    hidden_act: "gelu_pytorch_tanh",
    attention_bias: meta.has("blk.0.attn_q.bias"),
    // The head is the embedding in all of them, and files may hold no other.
    tie_word_embeddings: true,
  };
}
