#!/usr/bin/env bash
# What: with peft 0.21.2 and transformers 5.24.0, LoraConfig(target_modules="all-linear", r=2) on a Qwen3 mixture of
#   experts gives the fused gate_up_proj an adapter of rank 4 per expert, twice what was asked for, and adapts the
#   router too. At the same time peft warns that the rank_pattern which asks for the 4 "did not match any targeted
#   module and was ignored". It was not: the tensors have 4 rows an expert.
# Why it matters: memory and step time are planned by rank, a reader of the log believes the warning, a trained router
#   moves tokens between experts, and a tool that reads the adapter back by `r` finds tensors of another shape.
# Seen: {'asked': 2, 'down_proj': 2, 'gate_up_proj': 4, 'router': 2, 'warned_that_rank_pattern_was_ignored': True}
# Runs without lowrank, on random weights; some minutes and 6 GB for torch. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2

"$folder/venv/bin/python" - <<'PY'
import warnings

import transformers
from peft import LoraConfig, get_peft_model
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

transformers.logging.set_verbosity_error()
experts = 4
model = Qwen3MoeForCausalLM(
    Qwen3MoeConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, num_experts=experts, num_experts_per_tok=2,
    )
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", r=2))

rows = {
    name.split("layers.0.")[-1].split(".lora_A")[0]: tensor.shape[0]
    for name, tensor in adapted.named_parameters()
    if ".lora_A." in name
}
seen = {
    "asked": 2,
    # Wrappers nest: the outer one holds down_proj's factors, the inner one gate_up_proj's; rows are (expert, rank).
    "down_proj": rows["mlp.experts"] // experts,
    "gate_up_proj": rows["mlp.experts.base_layer"] // experts,
    "router": rows.get("mlp.gate"),
    "warned_that_rank_pattern_was_ignored": any(
        "rank_pattern" in str(w.message) and "gate_up_proj" in str(w.message) and "ignored" in str(w.message)
        for w in caught
    ),
}
print(seen)
expected = {
    "asked": 2, "down_proj": 2, "gate_up_proj": 4, "router": 2, "warned_that_rank_pattern_was_ignored": True,
}
assert seen == expected, f"the behavior has changed; it was {expected}"
PY
