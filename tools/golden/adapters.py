"""Goldens of PEFT adapter folders: what adapter_config.json says, which tensors it implies, what the model then outputs.

PEFT itself creates each configuration and reads each folder back with formula weights, so names, shapes and scales
are its own. Base: the tiny llama-mha (untied); copies of its own embeddings, which PEFT may add,
are left out. Output: test/golden/adapters.json.
"""
import json, pathlib, tempfile
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from models import both, deviation, logits_of
from philox import uniform
from record import array, versions, write
from tiny_models import ADAPTER_BOUND, ADAPTER_STREAM, build, sequence

BASE = "llama-mha"
SEED = 900
ATTENTION = [f"model.layers.0.self_attn.{n}_proj" for n in "qkvo"]

CASES = {
    "regex": dict(target_modules=r".*\.layers\.1\.(self_attn\.(q|v)|mlp\.down)_proj"),
    "suffixes": dict(target_modules=["down_proj", "q_proj"]),
    "full-paths": dict(target_modules=ATTENTION),
    "all-linear": dict(target_modules="all-linear"),
    "patterns": dict(target_modules=["q_proj", "v_proj", "up_proj"],
                     rank_pattern={"q_proj": 8, r"layers\.1\.mlp\.up_proj": 2}, alpha_pattern={"v_proj": 3, "q_proj": 5}),
    "rslora": dict(target_modules=["q_proj", "k_proj", "gate_proj"], use_rslora=True),
    "rslora-patterns": dict(target_modules=["q_proj", "k_proj"], use_rslora=True, rank_pattern={"k_proj": 9}),
    "one-layer": dict(target_modules=["q_proj", "o_proj"], layers_to_transform=[1], layers_pattern="layers"),
    "excluded": dict(target_modules=["q_proj", "o_proj"], exclude_modules=["layers.0.self_attn.q_proj"]),
    "modules-to-save": dict(target_modules=["q_proj", "v_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "lm-head": dict(target_modules=["q_proj", "lm_head"]),
    "embedding": dict(target_modules=["embed_tokens", "q_proj"]),
    "dora": dict(target_modules=["q_proj", "down_proj"], use_dora=True),
}


def formula(name, shape, n):
    """As goldenAdapter in load-golden.ts: unit * 0.25, around 1 for DoRA's magnitudes."""
    center = 1.0 if "lora_magnitude_vector" in name else 0.0
    return torch.from_numpy(uniform(SEED, ADAPTER_STREAM + n, shape, ADAPTER_BOUND, center))


def case(settings, ids):
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=0.0, task_type="CAUSAL_LM", **settings)
    with tempfile.TemporaryDirectory() as folder:
        get_peft_model(build(BASE), config).save_pretrained(folder, save_embedding_layers=False)
        written = json.loads((pathlib.Path(folder) / "adapter_config.json").read_text())
        weights = pathlib.Path(folder) / "adapter_model.safetensors"
        with safe_open(weights, "pt") as file:
            shapes = {n: tuple(file.get_slice(n).get_shape()) for n in sorted(file.keys())}
            metadata = file.metadata()
        save_file({n: formula(n, s, i) for i, (n, s) in enumerate(shapes.items())}, weights, metadata)

        def run(dtype):
            with torch.no_grad():
                model = PeftModel.from_pretrained(build(BASE), folder).to(dtype).eval()
                return logits_of(model, ids)

        exact, rough = both(run)
    # Sets have no order of their own; None would be the machine's path otherwise.
    if isinstance(written["target_modules"], list):
        written["target_modules"] = sorted(written["target_modules"])
    written["base_model_name_or_path"] = None
    return {
        "config": written, "metadata": metadata,
        "adapter": [{"name": n, "shape": list(s)} for n, s in shapes.items()],
        "logits": array(exact), "float32Deviation": deviation(exact, rough),
    }


def main():
    torch.set_num_threads(1)
    ids = sequence(SEED, 2000, 12, build(BASE).config.vocab_size, 0)["ids"]
    write("adapters.json", {
        "versions": versions("torch", "transformers", "peft", "safetensors"),
        "base": BASE, "seed": SEED, "ids": ids,
        "cases": {name: case(settings, ids) for name, settings in CASES.items()},
    })


if __name__ == "__main__":
    main()
