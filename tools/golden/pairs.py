"""Goldens of two adapters over one dense model whose layers are not alike: one file, pairs.json, as mixtures.py makes its own."""
from transformers import Gemma4Config
from mixtures import case
from record import versions, write
from tiny_models import SMALL, family

PER_LAYER = dict(
    num_hidden_layers=5, layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    sliding_window=6, head_dim=8, global_head_dim=12, num_kv_shared_layers=2, use_double_wide_mlp=True,
    hidden_size_per_layer_input=4, vocab_size_per_layer_input=96, final_logit_softcapping=8.0)
VISION = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8)

CASES = {
    # Values that are keys, heads of two widths.
    "gemma4": (541, lambda: family(
        "gemma4_text", num_hidden_layers=3, layer_types=["full_attention", "sliding_attention", "full_attention"],
        sliding_window=6, head_dim=8, global_head_dim=16, attention_k_eq_v=True, num_global_key_value_heads=1,
        tie_word_embeddings=True, hidden_size_per_layer_input=0), {}, dict(r=2, target_modules="all-linear")),
    # Embeddings of each layer, keys that later layers share.
    "gemma4-per-layer": (542, lambda: family("gemma4_text", **PER_LAYER), {}, dict(r=2, target_modules="all-linear")),
    # Inside a model with a vision tower, by the layers that PEFT adapts there.
    "gemma4-whole": (543, lambda: Gemma4Config(
        text_config={**SMALL, **PER_LAYER, "pad_token_id": 0, "tie_word_embeddings": True}, vision_config=VISION, audio_config=None), {},
        dict(r=3, target_modules=r".*language_model\..*\.(q_proj|k_proj|v_proj|down_proj)")),
}


def main():
    write("pairs.json", {"versions": versions("torch", "transformers", "peft"), "cases": {name: case(*CASES[name], rate=1e-3) for name in CASES}})


if __name__ == "__main__":
    main()
