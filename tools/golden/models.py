"""Goldens of every architecture: logits, losses, LoRA and full gradients, ten AdamW steps, greedy ids.

Arrays come from transformers (eager attention) in float64 arithmetic; `float32Deviation` beside them says how far
the same computation in float32 falls from it, so that a tolerance can be chosen knowingly. Losses and norms are
given for both. One file a model: test/golden/models/<name>.json.
"""
import json, pathlib, sys, tempfile
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from float64 import float64_arithmetic
from record import array, number, numbers, versions, write
from tiny_models import MODELS, build, fill_adapter, old_spelling, saved_name, sequence, stored_names

TRAINING = dict(learningRate=1e-2, beta1=0.9, beta2=0.999, epsilon=1e-8, weightDecay=0.01, maxGradNorm=1.0)
# Layers with states, and scores that nothing scales, magnify what rounding decides of an element's sign in AdamW's first steps.
SMALL_STEPS = dict(learningRate=1e-3)
STEPS = 10
RANK, ALPHA = 4, 8
SAMPLES = 16  # entries kept of each gradient of full fine-tuning
NEW_TOKENS = 24


def logits_of(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0]


def loss_of(model, sequences):
    """Sum of -log p over all target tokens of all sequences, divided by their number; one sequence at a time."""
    total, count = 0.0, 0
    for item in sequences:
        logits = logits_of(model, item["ids"])[:-1]
        target = torch.tensor(item["ids"][1:])
        keep = torch.tensor(item["mask"][1:]).bool()
        total = total + F.cross_entropy(logits[keep], target[keep], reduction="sum")
        count += int(keep.sum())
    return total / count


def trainable(model):
    return {saved_name(n): p for n, p in model.named_parameters() if p.requires_grad}


def gradients(model, sequences):
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, sequences)
    loss.backward()
    return loss.item(), {n: p.grad.detach().clone() for n, p in sorted(trainable(model).items())}


def training_of(name):
    return {**TRAINING, **(SMALL_STEPS if name.startswith(("qwen3-5", "lfm2", "gemma4-per-layer")) else {})}


def train(model, batches, constants=TRAINING):
    parameters = list(trainable(model).values())
    optimizer = torch.optim.AdamW(
        parameters, lr=constants["learningRate"], betas=(constants["beta1"], constants["beta2"]),
        eps=constants["epsilon"], weight_decay=constants["weightDecay"])
    losses, norms = [], []
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, constants["maxGradNorm"]).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def with_adapter(model, seed):
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    fill_adapter(model, seed)
    return model.eval()


def both(run):
    """run(dtype) in float64 arithmetic, then in float32."""
    with float64_arithmetic():
        exact = run(torch.float64)
    return exact, run(torch.float32)


def deviation(exact, rough):
    """Largest difference of two tensors, relative to the largest magnitude of the exact one."""
    return number((exact - rough.double()).abs().max() / exact.abs().max(), 2)


def trajectory(name, make, batches):
    (losses, norms), (losses32, norms32) = both(lambda dtype: train(make(dtype), batches, training_of(name)))
    return {"losses": numbers(losses, 12), "gradNorms": numbers(norms, 12),
            "lossesFloat32": numbers(losses32), "gradNormsFloat32": numbers(norms32)}


def evaluate(make, ids):
    with torch.no_grad():
        exact, rough = both(lambda dtype: logits_of(make(dtype), ids))
    return {"logits": array(exact), "float32Deviation": deviation(exact, rough)}


def lora(name, seed, packed, batches):
    make = lambda dtype: with_adapter(build(name, dtype), seed).to(dtype)
    (loss, exact), (loss32, rough) = both(lambda dtype: gradients(make(dtype), packed))
    return {
        "rank": RANK, "alpha": ALPHA, "targets": "all-linear",
        "adapter": [{"name": n, "shape": list(g.shape)} for n, g in exact.items()],
        "loss": number(loss, 12), "lossFloat32": number(loss32),
        "float32Deviation": max(deviation(exact[n], rough[n]) for n in exact),
        "gradients": {n: array(g) for n, g in exact.items()},
        "training": trajectory(name, make, batches),
    }


def full(name, packed, batches):
    make = lambda dtype: build(name, dtype)
    (loss, exact), (loss32, rough) = both(lambda dtype: gradients(make(dtype), packed))
    sampled = {}
    for n, g in exact.items():
        flat = g.flatten()
        stride = max(1, flat.numel() // SAMPLES)
        sampled[n] = {"norm": number(g.norm(), 10), "sum": number(g.sum(), 10), "max": number(g.abs().max(), 10),
                      "stride": stride, "entries": numbers(flat[::stride][:SAMPLES], 8)}
    return {
        "loss": number(loss, 12), "lossFloat32": number(loss32),
        "float32Deviation": max(deviation(exact[n], rough[n]) for n in exact),
        "gradients": sampled,
        "training": trajectory(name, make, batches),
    }


def greedy(name, seed, vocab):
    """Two prompts of 5 and 8 tokens; 24 tokens each with the KV cache. `margin`: smallest lead of a winner's logit."""
    results, stream = [], 2200
    for length in (5, 8):
        while True:
            prompt = sequence(seed, stream, length, vocab, 0)["ids"]
            stream += 1
            model = build(name)
            out = model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, length, dtype=torch.long), do_sample=False,
                max_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0, output_logits=True,
                return_dict_in_generate=True)
            ids = out.sequences[0, length:].tolist()
            best = torch.stack(out.logits)[:, 0].topk(2).values
            margin = (best[:, 0] - best[:, 1]).min().item()
            if len(ids) == NEW_TOKENS and margin > 5e-3:
                break
        results.append({"prompt": prompt, "ids": ids, "margin": number(margin, 3)})
    return results


def written_config(model):
    """config.json as save_pretrained writes it; checks that the old spelling reads back to the same model."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "config.json"
        model.save_pretrained(folder)
        config = json.loads(path.read_text())
        path.write_text(json.dumps(old_spelling(config)))
        again = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        ids = list(range(30))
        with torch.no_grad():
            assert torch.equal(logits_of(model, ids), logits_of(again.eval(), ids)), "old spelling differs"
    return config


def packed_sequences(seed, vocab):
    return [sequence(seed, 2001 + i, n, vocab, p) for i, (n, p) in enumerate([(13, 3), (7, 0), (18, 6)])]


def training_batches(seed, vocab):
    """Five batches seen twice, so that the second half tests what the first half learned."""
    return [[sequence(seed, 2100 + 2 * (s % 5) + i, n, vocab, p) for i, (n, p) in enumerate([(14, 2), (9, 4)])]
            for s in range(STEPS)]


def description(model, seed):
    """What load-golden.ts needs to recreate a model folder."""
    config = written_config(model)
    state = model.state_dict()
    return {"config": config, "configTransformers4": old_spelling(config), "seed": seed,
            "tensors": [{"name": n, "shape": list(state[n].shape)} for n in stored_names(model)]}


def golden(name):
    seed, _ = MODELS[name]
    model = build(name)
    vocab = model.config.vocab_size
    length = {"llama-dynamic": 32, "qwen3-5": 150}.get(name, 40)
    sample = sequence(seed, 2000, length, vocab, 4)
    packed, batches = packed_sequences(seed, vocab), training_batches(seed, vocab)
    with torch.no_grad():
        mean, mean32 = both(lambda dtype: loss_of(build(name, dtype), [sample]).item())
        pack, pack32 = both(lambda dtype: loss_of(build(name, dtype), packed).item())
    content = {
        "name": name, "versions": versions("torch", "transformers", "peft", "numpy"),
        **description(model, seed),
        "sequence": {**sample, **evaluate(lambda d: build(name, d), sample["ids"]),
                     "loss": number(mean, 12), "lossFloat32": number(mean32)},
        "packed": {"sequences": packed, "loss": number(pack, 12), "lossFloat32": number(pack32)},
    }
    if name == "llama-dynamic":
        long = sequence(seed, 2300, 48, vocab, 0)
        content["long"] = {"ids": long["ids"], **evaluate(lambda d: build(name, d), long["ids"])}
    content["training"] = {**training_of(name), "batches": batches}
    content["lora"] = lora(name, seed, packed, batches)
    content["full"] = full(name, packed, batches)
    content["greedy"] = greedy(name, seed, vocab)
    write(f"models/{name}.json", content)


def main(names=()):
    torch.set_num_threads(1)
    for name in names or MODELS:
        golden(name)


if __name__ == "__main__":
    main(sys.argv[1:])
