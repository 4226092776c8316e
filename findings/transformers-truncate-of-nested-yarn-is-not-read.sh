#!/usr/bin/env bash
# What: transformers 5.24.0 reads YaRN's "truncate" from the top of rope_parameters, also where rope_parameters holds a RoPE
#   for each layer type (OLMo 3, Gemma 3). What stands inside the layer type's own object, where every other key of YaRN is
#   read, changes nothing.
# Why it matters: a file that says truncate: false there is computed with the ramp rounded to whole pairs, and nobody is
#   told; a reader that takes the key at its word has other logits than transformers.
# Seen: {'inside': 'rounded', 'beside': 'not rounded'}
# Runs without lowrank, on random weights; some minutes and 6 GB for torch. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0

"$folder/venv/bin/python" - <<'PY'
import torch
import transformers

transformers.logging.set_verbosity_error()
yarn = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 32}
plain = {"rope_type": "default", "rope_theta": 1e4}


def frequencies(inside, beside):
    ropes = {"full_attention": {**yarn, **inside}, "sliding_attention": dict(plain), **beside}
    config = transformers.Olmo3Config(
        vocab_size=64, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, rope_parameters=ropes, pad_token_id=0,
        layer_types=["sliding_attention", "full_attention"])
    return transformers.Olmo3ForCausalLM(config).model.rotary_emb.full_attention_inv_freq


rounded = frequencies({}, {})
told = lambda found: "rounded" if torch.equal(found, rounded) else "not rounded"
seen = {"inside": told(frequencies({"truncate": False}, {})), "beside": told(frequencies({}, {"truncate": False}))}
print(seen)
assert seen == {"inside": "rounded", "beside": "not rounded"}, seen
PY
