"""The tiny model shapes of every golden, and the formula of their weights.

A model's tensors, sorted by name, are numbered from 0; tensor n is stream n of Philox under the model's seed:
  embeddings      unit * 0.5      (so that token identity dominates)
  other matrices  unit * 0.25     (hidden 48: projections keep unit scale, attention is not flat)
  norm weights    1 + unit * 0.1
  biases          unit * 0.1
Adapter tensors under PEFT's saved names (`...q_proj.lora_A.weight`), sorted, are streams 1000 + n, bound 0.25,
A and B alike: a zero B would leave half of the gradients zero.
"""
import copy
import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
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

# Not a golden of its own: rows are multiples of 64, as bitsandbytes' CPU decoder needs them (see qlora.py).
UNLISTED = {
    "llama-rows-64": (111, lambda: shape(LlamaConfig, hidden_size=64, intermediate_size=128, num_key_value_heads=2)),
}


def weight(name: str, size: tuple, seed: int, stream: int) -> np.ndarray:
    if len(size) == 2:
        return uniform(seed, stream, size, 0.5 if "embed_tokens" in name else 0.25)
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
    rope = old.pop("rope_parameters")
    old["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    # 4.x wrote "type" for the first scalings and "rope_type" since llama3.
    old["rope_scaling"] = None if kind == "default" else {"rope_type" if kind == "llama3" else "type": kind, **rope}
    old["torch_dtype"] = old.pop("dtype", None) or "float32"
    old.pop("layer_types", None)
    # The first releases wrote neither; both follow from the other sizes.
    if old.get("head_dim") == old["hidden_size"] // old["num_attention_heads"]:
        del old["head_dim"]
    if old["model_type"] == "llama" and old["num_key_value_heads"] == old["num_attention_heads"]:
        del old["num_key_value_heads"]
    old["transformers_version"] = "4.41.0"
    return old
