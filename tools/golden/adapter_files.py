"""adapter-files.json: what PEFT makes of adapter folders that do more than adapt the blocks' linear layers.

PEFT writes each folder, which is then filled with formula weights as in adapters.py and read back by
PeftModel.from_pretrained onto a base of its vocabulary; `losses` are the model's over two texts, in float64 arithmetic.
"""
import json, logging, pathlib, tempfile
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from adapters import SEED, formula
from float64 import float64_arithmetic
from models import loss_of
from record import number, versions, write
from tiny_models import build, sequence

logging.disable(logging.WARNING)
BASES = {"tied": "qwen2-tied", "biased": "llama-bias"}
# (base, LoraConfig's settings, tokens to add)
CASES = {
    "head of a tie": ("tied", dict(target_modules=["q_proj", "lm_head"]), 0),
    "head": ("biased", dict(target_modules=["q_proj", "lm_head"]), 0),
    "embedding of a tie": ("tied", dict(target_modules=["embed_tokens", "v_proj"]), 0),
    "embedding of a tie, tied": ("tied", dict(target_modules=["embed_tokens", "v_proj"], ensure_weight_tying=True), 0),
    "embedding": ("biased", dict(target_modules=["embed_tokens", "q_proj"], use_rslora=True), 0),
    "head and embedding": ("biased", dict(target_modules=["embed_tokens", "lm_head"]), 0),
    "saved embedding of a tie": ("tied", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]), 0),
    "saved head of a tie": ("tied", dict(target_modules=["q_proj"], modules_to_save=["lm_head"]), 0),
    "saved tables of a tie": ("tied", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), 0),
    "saved embedding of a tie, tied": (
        "tied", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True), 0),
    "saved tables": ("biased", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), 0),
    "saved norms": ("tied", dict(target_modules=["o_proj"], modules_to_save=["input_layernorm", "norm"]), 0),
    "saved linear layer": ("biased", dict(target_modules=["q_proj"], modules_to_save=["down_proj"]), 0),
    "all biases": ("biased", dict(target_modules=["q_proj", "up_proj"], bias="all"), 0),
    "biases of its layers": ("biased", dict(target_modules=["q_proj", "up_proj"], bias="lora_only"), 0),
    "added tokens": ("biased", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), 3),
    "added tokens of a tie": ("tied", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), 3),
    "adapted tables with added tokens": ("biased", dict(target_modules=["embed_tokens", "lm_head", "q_proj"]), 2),
    "dora": ("biased", dict(target_modules="all-linear", use_dora=True), 0),
    "dora head of a tie": ("tied", dict(target_modules=["q_proj", "down_proj", "lm_head"], use_dora=True), 0),
    "dora beside saved tables": (
        "biased", dict(target_modules=["v_proj", "up_proj"], use_dora=True, modules_to_save=["embed_tokens", "lm_head"]), 2),
    "dora and all biases": ("biased", dict(target_modules=["q_proj", "up_proj"], use_dora=True, bias="all"), 0),
    "a smaller vocabulary": ("biased", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), -5),
}


def base_of(kind: str, added: int):
    model = build(BASES[kind])
    if added:
        model.resize_token_embeddings(model.config.vocab_size + added, mean_resizing=False)
    return model


def case(kind: str, settings: dict, added: int) -> dict:
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=0.0, task_type="CAUSAL_LM", **settings)
    vocabulary = build(BASES[kind]).config.vocab_size + added
    texts = [sequence(SEED, 2100 + i, length, vocabulary, 1) for i, length in enumerate((14, 23))]
    with tempfile.TemporaryDirectory() as folder:
        get_peft_model(base_of(kind, added), config).save_pretrained(folder)
        written = json.loads((pathlib.Path(folder) / "adapter_config.json").read_text())
        weights = pathlib.Path(folder) / "adapter_model.safetensors"
        with safe_open(weights, "pt") as file:
            shapes = {n: tuple(file.get_slice(n).get_shape()) for n in sorted(file.keys())}
        values = {n: formula(n, s, i) for i, (n, s) in enumerate(shapes.items())}
        save_file(values, weights, {"format": "pt"})
        with torch.no_grad(), float64_arithmetic():
            model = PeftModel.from_pretrained(base_of(kind, added), folder).to(torch.float64).eval()
            losses = [number(loss_of(model, [text])) for text in texts]
    kept = {k: v for k, v in written.items() if v not in (None, [], {}, False) and k != "base_model_name_or_path"}
    for key in ("target_modules", "modules_to_save"):
        if key in kept:
            kept[key] = sorted(kept[key])
    return {"base": BASES[kind], "config": kept, "adapter": [{"name": n, "shape": list(s)} for n, s in shapes.items()],
            "texts": [text["ids"] for text in texts], "losses": losses}


def main() -> None:
    torch.set_num_threads(1)
    write("adapter-files.json", {
        "versions": versions("torch", "transformers", "peft", "safetensors"), "seed": SEED,
        "cases": {name: case(*settings) for name, settings in CASES.items()}})


if __name__ == "__main__":
    main()
