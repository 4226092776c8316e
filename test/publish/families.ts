// Models of formula weights whose vocabulary is bytes, one of each family beyond LLaMA's four, as GGUF exports of them are
// tested. Not a test by itself; gguf-families.test.ts and gguf-llama.test.ts are.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { weightSpecs } from "../../src/models/decoder-weights.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { storedParts } from "../../src/models/stored-parts.ts";
import { writeModelFolder } from "../golden/load-golden.ts";
import { byteTokenizerFiles } from "../text/byte-tokenizer.ts";

export type FamilyConfig = Readonly<Record<string, unknown>>;

export const familyShape = {
  ...{
    vocab_size: 264,
    hidden_size: 64,
    intermediate_size: 96,
    num_attention_heads: 4,
    num_key_value_heads: 2,
  },
  ...{ max_position_embeddings: 256, rms_norm_eps: 1e-5, bos_token_id: 0, eos_token_id: 1, dtype: "float32" },
};
const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 16 };

export const families: Readonly<Record<string, FamilyConfig>> = {
  gemma3: {
    ...{ model_type: "gemma3_text", num_hidden_layers: 7, head_dim: 32, query_pre_attn_scalar: 32 },
    ...{ sliding_window: 16, rope_local_base_freq: 1e4, rope_theta: 1e6, intermediate_size: 96 },
    rope_scaling: { rope_type: "linear", factor: 8 },
  },
  gemma2: {
    ...{
      model_type: "gemma2",
      num_hidden_layers: 3,
      head_dim: 32,
      query_pre_attn_scalar: 32,
      sliding_window: 12,
    },
    ...{ attn_logit_softcapping: 6, final_logit_softcapping: 8 },
  },
  phi3: { model_type: "phi3", num_hidden_layers: 2, partial_rotary_factor: 0.5, tie_word_embeddings: true },
  "phi3-longrope": {
    ...{ model_type: "phi3", num_hidden_layers: 2, original_max_position_embeddings: 256 },
    rope_scaling: {
      type: "longrope",
      short_factor: [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
      long_factor: Array(8).fill(4),
    },
  },
  ministral3: {
    ...{ model_type: "ministral3", num_hidden_layers: 2, head_dim: 32 },
    rope_parameters: {
      ...{ ...yarn, rope_theta: 1e4, mscale: 1, mscale_all_dim: 1, llama_4_scaling_beta: 0.3 },
    },
  },
  granite: {
    ...{ model_type: "granite", num_hidden_layers: 2, attention_bias: true, mlp_bias: true },
    ...{ embedding_multiplier: 3, logits_scaling: 2, residual_multiplier: 0.4, attention_multiplier: 0.2 },
  },
  "granite-hybrid": {
    ...{
      model_type: "granitemoehybrid",
      num_hidden_layers: 2,
      num_local_experts: 0,
      embedding_multiplier: 2,
    },
    ...{ shared_intermediate_size: 96, layer_types: ["attention", "attention"], attention_multiplier: 0.3 },
    ...{ residual_multiplier: 0.5, logits_scaling: 4, tie_word_embeddings: true },
  },
  smollm3: { model_type: "smollm3", num_hidden_layers: 4 },
  exaone4: {
    ...{ model_type: "exaone4", num_hidden_layers: 2, sliding_window: null },
    layer_types: ["full_attention", "full_attention"],
    rope_parameters: {
      ...{ rope_type: "llama3", rope_theta: 1e4, factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
      original_max_position_embeddings: 32,
    },
  },
  seed_oss: { model_type: "seed_oss", num_hidden_layers: 2, head_dim: 32 },
  hunyuan: {
    ...{ model_type: "hunyuan_v1_dense", num_hidden_layers: 2, head_dim: 32, tie_word_embeddings: true },
    rope_parameters: { rope_type: "dynamic", rope_theta: 1e4, alpha: 50, factor: 1 },
  },
  olmo2: { model_type: "olmo2", num_hidden_layers: 2, tie_word_embeddings: true },
  olmo3: {
    ...{ model_type: "olmo3", num_hidden_layers: 4, sliding_window: 12 },
    rope_parameters: {
      full_attention: { ...yarn, rope_theta: 1e4 },
      sliding_attention: { rope_type: "default", rope_theta: 1e4 },
    },
  },
  gemma4: {
    ...{
      model_type: "gemma4_text",
      num_hidden_layers: 3,
      head_dim: 16,
      global_head_dim: 32,
      sliding_window: 12,
    },
    ...{ layer_types: ["sliding_attention", "sliding_attention", "full_attention"], attention_k_eq_v: true },
    ...{ num_global_key_value_heads: 1, hidden_size_per_layer_input: 0, final_logit_softcapping: 20 },
  },
  // Embeddings of each layer, more of them than tokens; keys that later layers share, and wider MLPs in those.
  "gemma4-per-layer": {
    ...{
      model_type: "gemma4_text",
      num_hidden_layers: 5,
      head_dim: 16,
      global_head_dim: 32,
      sliding_window: 12,
    },
    layer_types: ["full", "sliding", "full", "sliding", "full"].map((type) => `${type}_attention`),
    ...{ num_kv_shared_layers: 2, use_double_wide_mlp: true, tie_word_embeddings: false },
    ...{ hidden_size_per_layer_input: 16, vocab_size_per_layer_input: 272 },
    rope_parameters: {
      full_attention: { rope_type: "default", rope_theta: 1e5 },
      sliding_attention: { rope_type: "default", rope_theta: 1e4 },
    },
  },
  "gemma4-moe": {
    ...{
      model_type: "gemma4_text",
      num_hidden_layers: 2,
      head_dim: 16,
      global_head_dim: 32,
      sliding_window: 12,
    },
    ...{ layer_types: ["sliding_attention", "full_attention"], hidden_size_per_layer_input: 0 },
    ...{ enable_moe_block: true, num_experts: 6, top_k_experts: 2, moe_intermediate_size: 32 },
  },
  qwen3_moe: {
    ...{ model_type: "qwen3_moe", num_hidden_layers: 2, head_dim: 32, norm_topk_prob: true },
    ...{ num_experts: 6, num_experts_per_tok: 2, moe_intermediate_size: 32 },
  },
  mixtral: { model_type: "mixtral", num_hidden_layers: 2, num_local_experts: 4, num_experts_per_tok: 2 },
  gpt_oss: {
    ...{ model_type: "gpt_oss", num_hidden_layers: 2, head_dim: 32, sliding_window: 12 },
    ...{ num_local_experts: 4, num_experts_per_tok: 2, swiglu_limit: 7 },
    rope_parameters: { ...yarn, rope_theta: 1e4, truncate: true },
  },
};

/** Writes the family's model into a folder below `root`, with tensors as its own files have them. */
export function writeFamily(root: string, name: string, change: FamilyConfig = {}): string {
  // llama.cpp expects certain tokens of whatever is called Phi-3.
  const folder = join(root, `${name.replace("phi3", "fused")}-${Object.keys(change).join("-")}`);
  const config = { ...familyShape, ...families[name], ...change };
  const read = readModelConfig(config);
  const tensors = weightSpecs(read)
    .flatMap((spec) => storedParts({ storedName: (own) => own }, read, spec))
    .map(({ name: stored, shape }) => ({ name: stored, shape }))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1));
  writeModelFolder({ seed: 77, tensors, config, configTransformers4: config }, folder);
  const files = byteTokenizerFiles();
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(files.tokenizer));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(files.tokenizerConfig));
  return folder;
}
