"""Golden of PEFT's adapter files: for each way to choose modules, the adapter_config.json that PEFT saves, the modules
it adapts with their rank and scale, and, of small adapters, the names and shapes of the tensors. No weights are kept.
"""
import json, pathlib, tempfile, warnings
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM
from record import versions, write

LAYERS = 12
CASES = {
    "list of suffixes": dict(target_modules=["q_proj", "v_proj"]),
    "a full path takes that module only": dict(target_modules=["model.layers.1.self_attn.q_proj"]),
    "a longer suffix": dict(target_modules=["1.mlp.up_proj", "self_attn.k_proj"]),
    "all-linear": dict(target_modules="all-linear"),
    "the head by name": dict(target_modules=["2.self_attn.q_proj", "lm_head"]),
    "regex over full paths": dict(target_modules=r".*layers\.(3|1\d)\..*(q|v)_proj", use_rslora=True),
    "regex with python's own syntax": dict(target_modules=r"(?i)MODEL\.layers\.(?P<n>0|2)\.mlp\.[a-z]+_proj\Z"),
    "exclude by suffix": dict(target_modules="all-linear", exclude_modules=["down_proj", "layers.0.mlp.up_proj"]),
    "exclude by regex": dict(target_modules=["q_proj", "k_proj"], exclude_modules=r".*layers\.[0-8]\..*"),
    "some layers": dict(target_modules=["q_proj", "mlp.up_proj"], layers_to_transform=[1, 10]),
    "one layer, named pattern": dict(target_modules=["q_proj"], layers_to_transform=3, layers_pattern="layers"),
    "a full path ignores the layers": dict(
        target_modules=["model.layers.0.self_attn.q_proj", "v_proj"], layers_to_transform=[2], layers_pattern=["h", "layers"]
    ),
    "rank and alpha patterns, rank-stabilised": dict(
        target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"down_proj": 2, r"layers\.0\.self_attn\.q_proj": 16, r"layers\.\d\.self_attn\.q_proj": 3},
        alpha_pattern={"v_proj": 3, "^model.layers.1.self_attn.q_proj": 5},
        use_rslora=True,
    ),
    "a pattern with alternatives": dict(target_modules=["q_proj", "k_proj", "o_proj"], rank_pattern={"q_proj|k_proj": 6}),
    "modules to save": dict(target_modules=["2.mlp.up_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "a targeted module that is saved whole": dict(target_modules=["q_proj", "up_proj"], modules_to_save=["mlp"]),
}


def main():
    warnings.simplefilter("ignore")
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=12, num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=1
    )
    linear = [n for n, m in LlamaForCausalLM(config).named_modules() if isinstance(m, torch.nn.Linear)]
    cases = []
    for name, options in CASES.items():
        model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **options))
        adapted = {}
        for path, module in model.get_base_model().named_modules():
            if isinstance(module, LoraLayer):
                adapted[path] = [module.r["default"], module.scaling["default"]]
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            saved = json.loads((pathlib.Path(folder) / "adapter_config.json").read_text())
            for key, value in saved.items():  # sets: their order differs from run to run
                if key in ("target_modules", "exclude_modules") and isinstance(value, list):
                    saved[key] = sorted(value)
            with safe_open(pathlib.Path(folder) / "adapter_model.safetensors", "pt") as file:
                tensors = {key: file.get_slice(key).get_shape() for key in sorted(file.keys())}
        given = options["target_modules"]
        case = {"name": name, "given": given, "config": saved, "adapted": adapted}
        if len(adapted) <= 2:
            case["tensors"] = tensors
        cases.append(case)
    write("peft-targets.json", {"versions": versions("peft", "torch", "transformers"), "linear": linear, "cases": cases})


if __name__ == "__main__":
    main()
