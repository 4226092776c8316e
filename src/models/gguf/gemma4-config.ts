// config.json of Gemma 4 from a GGUF file's metadata: the inverse of gemma4.ts. Two kinds of layers differ in heads, RoPE and
// what they see; whether values are the keys, and how much of a wide head turns, is told by the file's tensors.

import { UserError } from "../../util/errors.ts";
import type { Json } from "../decoder-config.ts";
import type { Metadata } from "./metadata.ts";

/** A divisor of a frequency beyond which its pair stands still. */
const standsStill = 1e20;

export async function gemma4Config(meta: Metadata, common: Json): Promise<Json> {
  const layers = Number(common.num_hidden_layers);
  const slides = meta.flags("attention.sliding_window_pattern", layers);
  const full = slides?.lastIndexOf(false) ?? -1;
  const sliding = slides?.indexOf(true) ?? -1;
  if (!slides || full < 0 || sliding < 0) {
    throw new UserError(
      `${meta.file.path}: metadata gemma4.attention.sliding_window_pattern should say which of ${layers} layers have a window, some of them and not all`,
    );
  }
  const keyHeads = meta.perLayer("attention.head_count_kv", layers);
  const shared = meta.number("attention.shared_kv_layers", 0);
  if (!Number.isInteger(shared) || shared < 0 || shared >= layers) {
    throw new UserError(
      `${meta.file.path}: metadata gemma4.attention.shared_kv_layers is ${shared}; expected a whole number below the ${layers} layers`,
    );
  }
  const ownFull = slides.slice(0, layers - shared).lastIndexOf(false);
  const valuesFromKeys = ownFull >= 0 && !meta.has(`blk.${ownFull}.attn_v.weight`);
  const headWidth = meta.number("attention.key_length");
  const differ = keyHeads[full] !== keyHeads[sliding];
  const mlpWidths = meta.perLayer("feed_forward_length", layers);
  const table = meta.file.tensors.get("per_layer_token_embd.weight");
  const experts = meta.optional("expert_count");
  return {
    ...{ model_type: "gemma4_text", ...common },
    hidden_activation: "gelu_pytorch_tanh",
    hidden_act: undefined,
    tie_word_embeddings: true,
    attention_bias: false,
    head_dim: meta.number("attention.key_length_swa", headWidth),
    global_head_dim: headWidth,
    num_key_value_heads: keyHeads[sliding],
    ...(differ && valuesFromKeys ? { num_global_key_value_heads: keyHeads[full] } : {}),
    ...(differ && !valuesFromKeys
      ? {
          per_layer_config: headsOfFull(slides, {
            head_dim: headWidth,
            num_key_value_heads: keyHeads[full]!,
          }),
        }
      : {}),
    attention_k_eq_v: valuesFromKeys,
    sliding_window: meta.number("attention.sliding_window"),
    layer_types: slides.map((is) => (is ? "sliding_attention" : "full_attention")),
    num_kv_shared_layers: shared,
    intermediate_size: mlpWidths[0],
    use_double_wide_mlp: shared > 0 && mlpWidths[layers - 1] === 2 * mlpWidths[0]!,
    hidden_size_per_layer_input: meta.number("embedding_length_per_layer_input", 0),
    ...(table ? { vocab_size_per_layer_input: table.shape[0] } : {}),
    // Without the key logits are capped at 30.
    final_logit_softcapping: meta.number("final_logit_softcapping", 30) || null,
    rope_parameters: {
      full_attention: await ofFullLayers(meta, headWidth),
      sliding_attention: { rope_type: "default", rope_theta: meta.number("rope.freq_base_swa", 10_000) },
    },
    ...(experts
      ? {
          enable_moe_block: true,
          num_experts: experts,
          top_k_experts: meta.number("expert_used_count"),
          moe_intermediate_size: meta.number("expert_feed_forward_length"),
        }
      : { enable_moe_block: false }),
  };
}

function headsOfFull(slides: readonly boolean[], heads: Json): Json {
  return Object.fromEntries(slides.flatMap((is, i) => (is ? [] : [[String(i), heads]])));
}

/** Which share of a head's pairs turns, told by the divisors of their frequencies. UserError for other divisors than 1. */
async function ofFullLayers(meta: Metadata, headWidth: number): Promise<Json> {
  const theta = meta.number("rope.freq_base", 1_000_000);
  const divisors = await meta.floats("rope_freqs.weight");
  const still = divisors?.findIndex((value) => value > standsStill) ?? -1;
  if (!divisors || (still < 0 && divisors.every((value) => value === 1)))
    return { rope_type: "default", rope_theta: theta };
  const turning = still < 0 ? divisors.length : still;
  if (
    divisors.length !== headWidth / 2 ||
    !divisors.every((value, i) => (i < turning ? value === 1 : value > standsStill))
  ) {
    throw new UserError(
      `${meta.file.path}: rope_freqs.weight should be ones and, behind them, what makes pairs stand still, ${headWidth / 2} in all; this file's frequencies are changed otherwise, which is not read from GGUF`,
    );
  }
  return { rope_type: "proportional", rope_theta: theta, partial_rotary_factor: (2 * turning) / headWidth };
}
