"""The tiny model shapes of every golden, and the formula of their weights.

A model's tensors, sorted by name, are numbered from 0; tensor n is stream n of Philox under the model's seed:
  embeddings      unit * 0.5      (so that token identity dominates)
  other matrices  unit * 0.25     (hidden 48: projections keep unit scale, attention is not flat)
  norm weights    1 + unit * 0.1
  biases          unit * 0.1
  convolutions    unit * 0.5
  A_log           unit - 2        (so that the delta rule remembers more than a token)
Adapter tensors under PEFT's saved names (`...q_proj.lora_A.weight`), sorted, are streams 1000 + n, bound 0.25,
A and B alike: a zero B would leave half of the gradients zero.
"""
import copy
import json
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from philox import integers, uniform

ADAPTER_STREAM = 1000
ADAPTER_BOUND = 0.25

BASE = dict(
    vocab_size=128, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2, pad_token_id=None,
)
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def shape(config_class, **changes):
    return config_class(**{**copy.deepcopy(BASE), "rope_parameters": dict(DEFAULT_ROPE), **changes})


# Smaller, for the families that came later: there are many of them.
SMALL = dict(
    vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2, pad_token_id=None,
)


def family(model_type, **changes):
    return AutoConfig.for_model(model_type, **{**copy.deepcopy(SMALL), **changes})


def lfm2(**changes):
    return family("lfm2", norm_eps=1e-5, **changes)


MODELS = {
    "llama-mha": (101, lambda: shape(LlamaConfig)),
    "llama-gqa-tied-llama3": (102, lambda: shape(
        LlamaConfig, num_key_value_heads=2, tie_word_embeddings=True, vocab_size=157, hidden_size=64,
        rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 32})),
    "llama-linear": (103, lambda: shape(
        LlamaConfig, num_key_value_heads=1, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5})),
    # Trained and generated within 32 positions; its "long" golden goes beyond them.
    "llama-dynamic": (104, lambda: shape(
        LlamaConfig, max_position_embeddings=32,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0})),
    "llama-bias": (105, lambda: shape(LlamaConfig, attention_bias=True, mlp_bias=True, num_key_value_heads=2)),
    # heads * head_dim = 80, not the hidden size 48.
    "llama-head-dim": (106, lambda: shape(LlamaConfig, head_dim=20, num_key_value_heads=2, num_hidden_layers=3)),
    # With some seeds an element of the first gradient is so small that rounding decides its sign, and with it AdamW's step.
    "mistral-window": (227, lambda: shape(MistralConfig, num_key_value_heads=2, sliding_window=8, num_hidden_layers=3)),
    "qwen2-tied": (108, lambda: shape(
        Qwen2Config, num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
    # Layer 0 sees everything, layers 1 and 2 slide.
    "qwen2-window": (109, lambda: shape(
        Qwen2Config, num_key_value_heads=2, num_hidden_layers=3, use_sliding_window=True, sliding_window=6, max_window_layers=1)),
    "qwen3": (110, lambda: shape(
        Qwen3Config, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
}

MODELS.update({
    # Every window, both RoPEs, a scale that is not the head's, a cap on the logits.
    "gemma3-text": (301, lambda: family(
        "gemma3_text", num_hidden_layers=4, head_dim=12, query_pre_attn_scalar=20, sliding_window=6,
        sliding_window_pattern=3, tie_word_embeddings=True, final_logit_softcapping=8.0,
        rope_parameters={"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})),
    # Scores that reach the cap, and a scale that is not the head's.
    "gemma2": (313, lambda: family(
        "gemma2", num_hidden_layers=3, head_dim=12, query_pre_attn_scalar=5, sliding_window=6, tie_word_embeddings=True,
        attn_logit_softcapping=1.5, final_logit_softcapping=8.0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4})),
    # Texts of up to 32 tokens turn otherwise than longer ones; 6 of 8 elements of a head turn.
    "phi3-longrope": (302, lambda: family(
        "phi3", tie_word_embeddings=True, original_max_position_embeddings=32,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75,
                         "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.5, 3.0, 7.0]})),
    # Generated across the length at which its frequencies change.
    "phi3-crossing": (303, lambda: family(
        "phi3", sliding_window=7, original_max_position_embeddings=16,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4,
                         "short_factor": [1.0, 1.1, 1.3, 1.4], "long_factor": [1.5, 3.0, 7.0, 9.0]})),
    # Queries grow from position 8 on.
    "ministral3": (304, lambda: family(
        "ministral3", head_dim=16,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 8,
                         "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.5,
                         "llama_4_scaling_beta": 0.3})),
    "granite": (305, lambda: family(
        "granite", attention_bias=True, mlp_bias=True, embedding_multiplier=3.0, logits_scaling=2.0,
        residual_multiplier=0.4, attention_multiplier=0.2)),
    "granite-hybrid-nope": (306, lambda: family(
        "granitemoehybrid", num_local_experts=0, shared_intermediate_size=40, layer_types=["full_attention"] * 2,
        position_embedding_type=None, mamba_n_heads=8, embedding_multiplier=2.0, logits_scaling=4.0,
        residual_multiplier=0.5, attention_multiplier=0.3, tie_word_embeddings=True)),
    "smollm3": (307, lambda: family("smollm3", num_hidden_layers=4, no_rope_layers=[1, 0, 1, 0], tie_word_embeddings=True)),
    "olmo2": (308, lambda: family("olmo2")),
    "olmo3": (309, lambda: family(
        "olmo3", num_hidden_layers=4, sliding_window=5,
        rope_parameters={"full_attention": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0,
                                            "original_max_position_embeddings": 16},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 5e5}})),
    "exaone4": (310, lambda: family("exaone4", num_hidden_layers=3, sliding_window=6, sliding_window_pattern=3)),
    "seed-oss": (311, lambda: family("seed_oss", head_dim=12, attention_dropout=0.0, residual_dropout=0.0)),
    "hunyuan": (312, lambda: family(
        "hunyuan_v1_dense", head_dim=12, tie_word_embeddings=True,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0})),
})

MODELS.update({
    # Two value heads a key head; its long sequence spans chunks of the delta rule.
    "qwen3-5": (323, lambda: family(
        "qwen3_5_text", max_position_embeddings=256, head_dim=16, layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16)),
    "qwen3-5-bias-tied": (333, lambda: family(
        "qwen3_5_text", num_hidden_layers=3, attention_bias=True, tie_word_embeddings=True, head_dim=12,
        linear_conv_kernel_dim=3, layer_types=["full_attention", "linear_attention", "full_attention"],
        linear_num_key_heads=3, linear_num_value_heads=3, linear_key_head_dim=10, linear_value_head_dim=6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5})),
    "lfm2": (325, lambda: lfm2(num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"], block_multiple_of=8)),
    "lfm2-bias": (326, lambda: lfm2(
        num_hidden_layers=3, full_attn_idxs=[0], conv_bias=True, conv_L_cache=5, block_auto_adjust_ff_dim=False,
        tie_word_embeddings=False)),
})

MODELS.update({
    # Heads of two widths, values that are keys before their norm, a cap on the logits.
    "gemma4": (341, lambda: family(
        "gemma4_text", num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=6,
        head_dim=8, global_head_dim=16, attention_k_eq_v=True, num_global_key_value_heads=1, tie_word_embeddings=True,
        hidden_size_per_layer_input=0, final_logit_softcapping=8.0)),
    # Embeddings of each layer; the last two layers attend to keys of the first two.
    "gemma4-per-layer": (342, lambda: family(
        "gemma4_text", num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=6,
        head_dim=8, global_head_dim=16, tie_word_embeddings=True, num_kv_shared_layers=2, use_double_wide_mlp=True,
        hidden_size_per_layer_input=4, vocab_size_per_layer_input=96, final_logit_softcapping=8.0)),
    "gemma4-unified": (343, lambda: family(
        "gemma4_unified_text", num_hidden_layers=3, sliding_window=6, head_dim=8, global_head_dim=12,
        attention_bias=True, tie_word_embeddings=True, layer_types=["sliding_attention", "sliding_attention", "full_attention"])),
})

# Not a golden of its own: rows are multiples of 64, as bitsandbytes' CPU decoder needs them (see qlora.py).
UNLISTED = {
    "llama-rows-64": (111, lambda: shape(LlamaConfig, hidden_size=64, intermediate_size=128, num_key_value_heads=2)),
}


def weight(name: str, size: tuple, seed: int, stream: int) -> np.ndarray:
    if len(size) == 2:
        return uniform(seed, stream, size, 0.5 if "embed_tokens" in name else 0.25)
    if len(size) == 3:  # kernels of convolutions
        return uniform(seed, stream, size, 0.5)
    if name.endswith("A_log"):
        return uniform(seed, stream, size, 1.0, -2.0)
    if name.endswith("bias"):
        return uniform(seed, stream, size, 0.1)
    return uniform(seed, stream, size, 0.1, 1.0)


def stored_names(model) -> list:
    """Names in the order of their streams; a tied head is not among them."""
    tied = model.config.tie_word_embeddings
    return sorted(n for n in model.state_dict() if not (tied and n == "lm_head.weight"))


def build(name: str, dtype=torch.float32):
    """The tiny model `name` with its formula weights, eager attention."""
    seed, make = {**MODELS, **UNLISTED}[name]
    model = AutoModelForCausalLM.from_config(make(), attn_implementation="eager", dtype=torch.float32)
    state = model.state_dict()
    with torch.no_grad():
        for stream, key in enumerate(stored_names(model)):
            state[key].copy_(torch.from_numpy(weight(key, tuple(state[key].shape), seed, stream)))
    return model.to(dtype).eval()


def saved_name(parameter: str) -> str:
    """PEFT's name in adapter_model.safetensors of a parameter of adapter "default"."""
    return parameter.replace(".default", "")


def fill_adapter(model, seed: int) -> None:
    """Sets every lora_A and lora_B from the formula."""
    found = {saved_name(n): p for n, p in model.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for n, key in enumerate(sorted(found)):
            values = uniform(seed, ADAPTER_STREAM + n, tuple(found[key].shape), ADAPTER_BOUND)
            found[key].copy_(torch.from_numpy(values))


def sequence(seed: int, stream: int, length: int, vocab: int, prompt: int) -> dict:
    """Random ids; the first `prompt` of them are no targets (nor is token 0, which nothing predicts)."""
    ids = integers(seed, stream, length, vocab)
    return {"ids": ids, "mask": [0 if i < max(prompt, 1) else 1 for i in range(length)]}


def old_spelling(config: dict) -> dict:
    """The same configuration as transformers 4 wrote it."""
    old = copy.deepcopy(config)
    if old["model_type"].startswith("gemma4"):
        return first_gemma4_spelling(old)
    rope = old.pop("rope_parameters")
    old["transformers_version"] = "4.41.0"
    if "full_attention" in rope:
        return old_by_layer_type(old, rope)
    old["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    # 4.x wrote "type" for the first scalings and "rope_type" since llama3.
    new_name = kind in ("llama3", "yarn") and old["model_type"] != "llama"
    old["rope_scaling"] = None if kind == "default" else {"rope_type" if new_name or kind == "llama3" else "type": kind, **rope}
    old["torch_dtype"] = old.pop("dtype", None) or "float32"
    if "partial_rotary_factor" in rope:
        old["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if old["model_type"] not in ("granitemoehybrid", "qwen3_5_text", "lfm2"):
        old.pop("layer_types", None)
    # The first releases wrote neither; both follow from the other sizes.
    if old.get("head_dim") == old["hidden_size"] // old["num_attention_heads"]:
        del old["head_dim"]
    if old["model_type"] == "llama" and old["num_key_value_heads"] == old["num_attention_heads"]:
        del old["num_key_value_heads"]
    return old


def first_gemma4_spelling(old: dict) -> dict:
    """As the published files have it: what differs in the layers that see everything stands in keys of its own."""
    of_layers = old.pop("per_layer_config")
    [full] = {json.dumps(each, sort_keys=True): each for each in of_layers.values()}.values()
    old["global_head_dim"] = full["head_dim"]
    old["num_global_key_value_heads"] = full.get("num_key_value_heads")
    return old


def old_by_layer_type(old: dict, rope: dict) -> dict:
    """RoPE of the layers that see everything in the usual keys; of others only a base, where it is another."""
    full, sliding = rope["full_attention"], rope["sliding_attention"]
    old["rope_theta"] = full.pop("rope_theta")
    old["rope_scaling"] = None if full["rope_type"] == "default" else full
    if old["model_type"] == "gemma3_text":
        old["rope_local_base_freq"] = sliding["rope_theta"]
        old["sliding_window_pattern"] = old.pop("_sliding_window_pattern")
        del old["layer_types"]
    old["torch_dtype"] = old.pop("dtype", None) or "float32"
    return old
