#!/usr/bin/env bash
# What: transformers 5.24.0 accepts partial_rotary_factor in rope_parameters of LLaMA, Mistral, Qwen2 and Qwen3 without a
#   word and does one of two things with it. With rope_type "default" it is ignored: the whole head turns, logits are
#   those without the key. With "linear" or "yarn" the same key is obeyed by the frequencies alone, and the first forward
#   pass ends in a RuntimeError about tensors of 16 and 8 elements.
# Why it matters: a folder that says "half of each head" is computed in full by one type and by no other; a reader that
#   takes the key at its word has other logits than transformers, and nobody is told.
# Seen, for each of the four: {'default_ignores_it': True, 'linear': 'RuntimeError', 'yarn': 'RuntimeError'}
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
shape = dict(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=64, head_dim=16,
)


def logits(family, rope):
    torch.manual_seed(0)
    config = getattr(transformers, family + "Config")(**shape, rope_parameters={"rope_theta": 10000.0, **rope})
    model = getattr(transformers, family + "ForCausalLM")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits


def outcome(family, rope):
    try:
        logits(family, rope)
        return "computed"
    except Exception as error:
        return type(error).__name__


half = {"partial_rotary_factor": 0.5}
expected = {"default_ignores_it": True, "linear": "RuntimeError", "yarn": "RuntimeError"}
for family in ("Llama", "Mistral", "Qwen2", "Qwen3"):
    whole, part = logits(family, {"rope_type": "default"}), logits(family, {"rope_type": "default", **half})
    seen = {
        "default_ignores_it": torch.equal(whole, part),
        "linear": outcome(family, {"rope_type": "linear", "factor": 2.0, **half}),
        "yarn": outcome(family, {"rope_type": "yarn", "factor": 2.0, **half}),
    }
    print(family, seen)
    assert seen == expected, f"the behavior has changed; it was {expected}"
PY
