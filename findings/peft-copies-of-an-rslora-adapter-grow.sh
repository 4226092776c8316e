#!/usr/bin/env bash
# What: peft 0.21.2's add_weighted_adapter(["a"], [1.0], "copy") makes an adapter that acts as "a" does, unless "a" has
#   use_rslora=True: then the copy is larger by the square root of its rank. All methods of combining ("cat", "linear", "svd")
#   fold the scale of the old adapters into the factors and give the new one lora_alpha = r, which is a scale of 1 for plain
#   LoRA; but the copied configuration still says use_rslora, and its scale is r / sqrt(r). "cat" of two adapters of rank 4
#   has rank 8 and is 2.83 times their sum. No message.
# Why it matters: merging or mixing adapters of rank 64 gives one that is 8 times too strong, and the weights, which are then
#   looked at, are not at fault. A mixture also depends on the method: by as much as its rank does.
# Seen: {'plain': {'cat': 1.0, 'linear': 1.0, 'svd': 1.0, 'cat of two': 1.0},
#   'rslora': {'cat': 2.0, 'linear': 2.0, 'svd': 2.0, 'cat of two': 2.83}}
# Runs without lowrank, on random weights; some minutes and 6 GB for torch. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2

"$folder/venv/bin/python" - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

rank, width = 4, 32


def sizes(use_rslora):
    """By method: how much larger what the combined adapter adds is than what the old ones add together."""
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=8, use_rslora=use_rslora, target_modules=["0"], init_lora_weights=False)
    model = get_peft_model(nn.Sequential(nn.Linear(width, width)), config, adapter_name="a")
    model.add_adapter("b", config)
    layer = model.base_model.model[0]
    a, b = layer.get_delta_weight("a"), layer.get_delta_weight("b")

    def size(name, adapters, method, wanted):
        model.add_weighted_adapter(adapters, [1.0] * len(adapters), name, combination_type=method)
        got = layer.get_delta_weight(name)
        ratio = (got.norm() / wanted.norm()).item()
        assert (got / ratio - wanted).abs().max() < 1e-4 * wanted.abs().max(), "another direction, too"
        return round(ratio, 2)

    found = {method: size(method, ["a"], method, a) for method in ("cat", "linear", "svd")}
    return {**found, "cat of two": size("two", ["a", "b"], "cat", a + b)}


seen = {"plain": sizes(False), "rslora": sizes(True)}
print(seen)
expected = {
    "plain": {"cat": 1.0, "linear": 1.0, "svd": 1.0, "cat of two": 1.0},
    "rslora": {"cat": 2.0, "linear": 2.0, "svd": 2.0, "cat of two": 2.83},
}
assert seen == expected, f"the behavior has changed; it was {expected}"
PY
