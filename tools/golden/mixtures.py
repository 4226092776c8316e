"""Goldens of mixtures of experts, in folders as transformers and PEFT write them: one file, mixtures.json.

Tensors of a folder, sorted by their names in the file, are streams of the formula (tiny_models.py's bounds, stacks as
matrices, sinks as biases, the scales of a router 1 + unit / 2); two adapters have streams 1000 + n and 2000 + n. MXFP4's bytes are floor(128 (unit + 1)), its
scales 122 + floor(2 (unit + 1)). Everything is computed by transformers and PEFT in float32.
"""
import json, pathlib, tempfile
import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config
from philox import integers, uniform, unit
from record import array, number, versions, write
from tiny_models import family

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
BESIDE = ["experts.gate_up_proj", "experts.down_proj"]
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 32}

# Seed, configuration, how the file is saved, what the adapters adapt.
CASES = {
    # A dense layer among the sparse ones, weights that do not sum to 1, a tied head.
    "qwen3-moe": (501, lambda: family(
        "qwen3_moe", num_hidden_layers=3, head_dim=12, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24,
        norm_topk_prob=False, mlp_only_layers=[1], tie_word_embeddings=True), {},
        dict(r=2, target_modules=["q_proj", "v_proj"], target_parameters=EXPERTS)),
    # Every second layer is sparse; biases; a window; one parameter of the two.
    "qwen3-moe-step": (502, lambda: family(
        "qwen3_moe", num_hidden_layers=2, head_dim=8, num_experts=5, num_experts_per_tok=3, moe_intermediate_size=16,
        norm_topk_prob=True, decoder_sparse_step=2, attention_bias=True, use_sliding_window=True, sliding_window=6), {},
        dict(r=3, use_rslora=True, target_modules=[], target_parameters=EXPERTS[:1])),
    # Stacks in the file, and PEFT's all-linear: a rank pattern, and the router.
    "qwen3-moe-fused": (503, lambda: family(
        "qwen3_moe", num_hidden_layers=1, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        norm_topk_prob=True), dict(save_original_format=False), dict(r=2, target_modules="all-linear")),
    "mixtral": (504, lambda: family("mixtral", head_dim=None, num_local_experts=4, num_experts_per_tok=2, sliding_window=7), {},
                dict(r=2, target_modules=["o_proj"], target_parameters=[EXPERTS[1], "mlp.gate.weight"])),
    "gpt-oss": (505, lambda: family(
        "gpt_oss", num_hidden_layers=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=6,
        swiglu_limit=0.6, rope_parameters=YARN), {},
        dict(r=2, target_modules=["k_proj"], target_parameters=EXPERTS + ["mlp.router.weight"])),
    "gpt-oss-mxfp4": (506, lambda: family(
        "gpt_oss", num_hidden_layers=2, intermediate_size=32, head_dim=8, num_local_experts=3, num_experts_per_tok=2,
        sliding_window=6, attention_bias=False, rope_parameters={"rope_type": "default", "rope_theta": 1e4}), {},
        dict(r=2, target_modules=[], target_parameters=EXPERTS)),
    # An expert that every token goes to, beside those that are chosen; linear attention.
    "qwen3-5-moe": (507, lambda: family(
        "qwen3_5_moe_text", num_hidden_layers=2, head_dim=16, layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=24), {},
        dict(r=2, target_modules=["in_proj_qkv", "in_proj_a", "gate_proj", "shared_expert_gate"], target_parameters=EXPERTS)),
    # A dense MLP beside the experts; values that are keys.
    "gemma4-moe": (508, lambda: family(
        "gemma4_text", num_hidden_layers=3, layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        sliding_window=6, head_dim=8, global_head_dim=16, attention_k_eq_v=True, num_global_key_value_heads=1,
        tie_word_embeddings=True, hidden_size_per_layer_input=0, final_logit_softcapping=8.0, enable_moe_block=True,
        num_experts=6, top_k_experts=2, moe_intermediate_size=12), {},
        dict(r=2, target_modules=["q_proj", "gate_proj"], target_parameters=BESIDE)),
    # And embeddings of each layer, shared keys, MLPs of two widths; the router, which is a linear layer to PEFT.
    "gemma4-moe-per-layer": (509, lambda: family(
        "gemma4_text", num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=6,
        head_dim=8, global_head_dim=12, num_kv_shared_layers=2, use_double_wide_mlp=True, hidden_size_per_layer_input=4,
        vocab_size_per_layer_input=96, hidden_activation="silu", enable_moe_block=True, num_experts=4, top_k_experts=3,
        moe_intermediate_size=24), {},
        dict(r=3, use_rslora=True, target_modules=["router.proj", "per_layer_projection"], target_parameters=BESIDE[1:])),
    # PEFT's all-linear, the router among it and the experts not; all experts at once.
    "gemma4-moe-linear": (510, lambda: family(
        "gemma4_text", num_hidden_layers=1, head_dim=8, global_head_dim=8, layer_types=["full_attention"],
        attention_bias=True, tie_word_embeddings=True, hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=3,
        top_k_experts=3, moe_intermediate_size=8), {}, dict(r=2, target_modules="all-linear")),
}
LENGTH, STEPS, NEW_TOKENS, RATE = 20, 10, 12, 5e-3
SAMPLES = 8  # entries kept of each gradient of full fine-tuning


def weights(names: dict, seed: int, first: int) -> dict:
    made = {}
    for n, (name, shape) in enumerate(sorted(names.items())):
        if name.endswith("_blocks"):
            values = np.minimum(255, np.floor(128 * (unit(seed, first + n, int(np.prod(shape))) + 1))).astype(np.uint8).reshape(shape)
        elif name.endswith("_scales"):
            values = (122 + np.floor(2 * (unit(seed, first + n, int(np.prod(shape))) + 1))).astype(np.uint8).reshape(shape)
        elif first > 0 or (len(shape) > 1 and not name.endswith("bias")):
            values = uniform(seed, first + n, shape, 0.5 if "embed_tokens" in name else 0.25)
        elif name.endswith("bias") or name.endswith("sinks"):
            values = uniform(seed, first + n, shape, 0.25)
        elif ".router." in name:
            values = uniform(seed, first + n, shape, 0.5, 1.0)
        else:
            values = uniform(seed, first + n, shape, 0.1, 1.0)
        made[name] = torch.from_numpy(values)
    return made


def stored(config, folder, saving, mxfp4):
    """Names and shapes of the tensors of the folder."""
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, **saving)
    names = {k: tuple(v.shape) for k, v in load_file(folder / "model.safetensors").items()}
    if not mxfp4:
        return names
    split = {}
    for name, shape in names.items():
        if name.endswith("_proj") and ".experts." in name:
            experts, inputs, outputs = shape
            split[f"{name}_blocks"] = (experts, outputs, inputs // 32, 16)
            split[f"{name}_scales"] = (experts, outputs, inputs // 32)
        else:
            split[name] = shape
    return split


def greedy(model, prompts):
    return [{"prompt": p, "ids": model.generate(
        # Without a mask a 0 in the prompt would be taken for padding.
        input_ids=torch.tensor([p]), attention_mask=torch.ones(1, len(p), dtype=torch.long), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0,
    )[0, len(p):].tolist()} for p in prompts]


def full_gradients(model, ids):
    """Of full fine-tuning, by the names of parameters in memory."""
    model.requires_grad_(True)
    F.cross_entropy(model(input_ids=torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:])).backward()
    sampled = {}
    for name, parameter in sorted(model.named_parameters()):
        if parameter.grad is None:
            continue  # another tower's
        flat = parameter.grad.flatten()
        stride = max(1, flat.numel() // SAMPLES)
        sampled[name] = {"norm": number(flat.norm().item(), 8), "sum": number(flat.sum().item(), 8), "max": number(flat.abs().max().item(), 8),
                         "stride": stride, "entries": [number(x, 8) for x in flat[::stride][:SAMPLES].tolist()]}
    return sampled


def case(seed, make, saving, adapter, mxfp4=False, rate=RATE):
    with tempfile.TemporaryDirectory() as temp:
        folder = pathlib.Path(temp)
        names = stored(make(), folder, saving, mxfp4)
        save_file(weights(names, seed, 0), folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        loading = {}
        if mxfp4:
            config["quantization_config"] = {"quant_method": "mxfp4"}
            (folder / "config.json").write_text(json.dumps(config))
            loading = dict(quantization_config=Mxfp4Config(dequantize=True))
        load = lambda: AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, **loading).float().eval()
        base = load()
        vocabulary = config.get("text_config", config)["vocab_size"]
        ids = integers(seed, 4000, LENGTH, vocabulary)
        prompts = [integers(seed, 4001 + i, length, vocabulary) for i, length in enumerate((3, 9, 17))]
        # PEFT changes the lists that it is given.
        lora = LoraConfig(lora_alpha=5, task_type="CAUSAL_LM", **{k: list(v) if isinstance(v, list) else v for k, v in adapter.items()})
        first = get_peft_model(load(), lora)
        first.save_pretrained(folder / "adapter")
        peft_config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        peft_config["base_model_name_or_path"] = None
        # Sets, in whatever order.
        peft_config.update({k: sorted(v) for k, v in peft_config.items() if k.startswith("target_") and isinstance(v, list)})
        shapes = {k: tuple(v.shape) for k, v in load_file(folder / "adapter" / "adapter_model.safetensors").items()}
        tuned = []
        for stream in (1000, 2000):
            save_file(weights(shapes, seed, stream), folder / "adapter" / "adapter_model.safetensors")
            tuned.append(PeftModel.from_pretrained(load(), folder / "adapter", is_trainable=True))
        model = tuned[0]
        loss_of = lambda: F.cross_entropy(model(input_ids=torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]))
        result = {
            "config": config, "seed": seed, "ids": ids,
            "tensors": [{"name": k, "shape": list(v)} for k, v in sorted(names.items())],
            "adapterConfig": peft_config,
            "adapter": [{"name": k, "shape": list(v)} for k, v in sorted(shapes.items())],
            "logits": array(base(input_ids=torch.tensor([ids])).logits[0]),
            "tunedLogits": array(model(input_ids=torch.tensor([ids])).logits[0]),
            "greedy": greedy(base, prompts), "greedyTuned": [greedy(m, prompts) for m in tuned],
        }
        if not mxfp4:
            result["fullGradients"] = full_gradients(base, ids)
        loss_of().backward()
        by_memory = {p.data_ptr(): p for p in model.parameters()}
        result["gradients"] = {k: array(by_memory[v.data_ptr()].grad) for k, v in sorted(get_peft_model_state_dict(model).items())}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            optimizer.step()
            losses.append(number(loss.item()))
        result["training"] = {"learningRate": rate, "losses": losses}
        return result


def main():
    write("mixtures.json", {"versions": versions("torch", "transformers", "peft"), "cases": {name: case(*CASES[name], mxfp4=name.endswith("mxfp4")) for name in CASES}})


if __name__ == "__main__":
    main()
