"""Goldens of kinds of adapters, of PEFT's LoRA+ optimizer and of PiSSA, on two architectures and on QLoRA's base.

PEFT makes the adapter; gradients of one packed loss and ten steps are in float64 arithmetic, with float32 beside them.
Of each gradient its norm, its largest magnitude and some entries are kept. PiSSA's singular vectors have no sign of their
own, so of its gradients only norms by row of A and by column of B; what its adapter adds to the unchanged base after the
ten steps is PEFT's own conversion. Output: test/golden/adapter-kinds.json.
"""
import tempfile
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from models import (ALPHA, RANK, TRAINING, both, gradients, loss_of, packed_sequences, trainable, training_batches)
from philox import uniform
from qlora import quantized
from record import number, numbers, versions, write
from tiny_models import ADAPTER_BOUND, ADAPTER_STREAM, MODELS, UNLISTED, build, saved_name

SAMPLES = 12
# B at sixteen times the other goldens' rate would leave torch's own float32 by percents in ten steps.
RATIO, RATIO_RATE = 16.0, 1e-3
DORA = dict(use_dora=True)
PISSA = dict(init_lora_weights="pissa")

CASES = {
    "dora llama": dict(base="llama-gqa-tied-llama3", lora=DORA),
    "dora qwen2": dict(base="qwen2-tied", lora=DORA),
    "dora head": dict(base="llama-mha", lora=DORA, targets=["q_proj", "down_proj", "lm_head"]),
    "dora qlora": dict(base="llama-rows-64", lora=DORA, quantized=True),
    "lora-plus llama": dict(base="llama-mha", lora={}, ratio=RATIO),
    "lora-plus qwen2": dict(base="qwen2-tied", lora={}, ratio=RATIO),
    "lora-plus dora": dict(base="qwen3", lora=DORA, ratio=RATIO),
    "pissa llama": dict(base="llama-mha", lora=PISSA),
    "pissa qwen2": dict(base="qwen2-tied", lora=PISSA),
}


def fill(model, seed):
    """Factors and magnitudes from the formula, as goldenAdapter in load-golden.ts."""
    found = {saved_name(n).removesuffix(".weight") if "magnitude" in n else saved_name(n): p
             for n, p in model.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for n, key in enumerate(sorted(found)):
            center = 1.0 if "magnitude" in key else 0.0
            found[key].copy_(torch.from_numpy(
                uniform(seed, ADAPTER_STREAM + n, tuple(found[key].shape), ADAPTER_BOUND, center)))


def make(case, seed, dtype):
    base = quantized(case["base"], torch.float32) if case.get("quantized") else build(case["base"])
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, task_type="CAUSAL_LM",
                        target_modules=case.get("targets", "all-linear"), **case["lora"])
    model = get_peft_model(base, config)
    if case["lora"] != PISSA:
        fill(model, seed)
    return model.to(dtype).eval()


def rate_of(case):
    return RATIO_RATE if "ratio" in case else TRAINING["learningRate"]


def optimizer_of(case, model):
    kwargs = dict(lr=rate_of(case), betas=(TRAINING["beta1"], TRAINING["beta2"]), eps=TRAINING["epsilon"])
    if "ratio" in case:
        return create_loraplus_optimizer(model, torch.optim.AdamW, loraplus_lr_ratio=case["ratio"],
                                         loraplus_weight_decay=TRAINING["weightDecay"], **kwargs)
    return torch.optim.AdamW(list(trainable(model).values()), weight_decay=TRAINING["weightDecay"], **kwargs)


def train(case, model, batches):
    optimizer = optimizer_of(case, model)
    parameters = list(trainable(model).values())
    losses, norms = [], []
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, TRAINING["maxGradNorm"]).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def sampled(gradient):
    flat = gradient.flatten()
    stride = max(1, flat.numel() // SAMPLES)
    return {"norm": number(gradient.norm(), 10), "max": number(gradient.abs().max(), 10), "stride": stride,
            "entries": numbers(flat[::stride][:SAMPLES], 8)}


def unsigned(name, gradient):
    """Norms by singular vector."""
    return {"norms": numbers(gradient.norm(dim=1 if "lora_A" in name else 0), 8)}


def converted(case, seed, batches):
    """What the adapter adds to the unchanged base after ten steps, by module: PEFT's rank 2r, and entries of B A."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as folder:
        model = make(case, seed, torch.float32)
        # As PEFT's guide has it, so that the initial factors are loaded without another decomposition.
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(first)
        model.peft_config["default"].init_lora_weights = "pissa"
        train(case, model, batches)
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=first)
        tensors = load_file(f"{folder}/adapter_model.safetensors")
    found = {}
    for name in sorted(n for n in tensors if ".lora_A." in n)[:4]:
        a, b = tensors[name], tensors[name.replace("lora_A", "lora_B")]
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        found[module] = {"rank": a.shape[0], **sampled(b @ a)}
    return found


def golden(case):
    seed = {**MODELS, **UNLISTED}[case["base"]][0]
    vocab = build(case["base"]).config.vocab_size
    packed, batches = packed_sequences(seed, vocab), training_batches(seed, vocab)
    (loss, exact), (loss32, _) = both(lambda dtype: gradients(make(case, seed, dtype), packed))
    (losses, norms), (losses32, norms32) = both(lambda dtype: train(case, make(case, seed, dtype), batches))
    pissa = case["lora"] == PISSA
    plain = {n.removesuffix(".weight") if "magnitude" in n else n: g for n, g in exact.items()}
    return {
        "base": case["base"], "quantized": case.get("quantized", False), "targets": case.get("targets", "all-linear"),
        "kind": "dora" if case["lora"] == DORA else "lora", "init": "pissa" if pissa else "default",
        "ratio": case.get("ratio"), "learningRate": rate_of(case), "rank": RANK, "alpha": ALPHA,
        "adapter": [{"name": n, "shape": list(plain[n].shape)} for n in sorted(plain)],
        "loss": number(loss, 12), "lossFloat32": number(loss32),
        "gradients": {n: unsigned(n, plain[n]) if pissa else sampled(plain[n]) for n in sorted(plain)},
        "training": {"losses": numbers(losses, 12), "gradNorms": numbers(norms, 12),
                     "lossesFloat32": numbers(losses32), "gradNormsFloat32": numbers(norms32)},
        **({"converted": converted(case, seed, batches)} if pissa else {}),
    }


def main():
    torch.set_num_threads(1)
    write("adapter-kinds.json", {
        "versions": versions("torch", "transformers", "peft"),
        "cases": {name: golden(case) for name, case in CASES.items()},
    })


if __name__ == "__main__":
    main()
