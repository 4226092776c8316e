"""Goldens of objectives on preferences: ten AdamW steps of each by TRL's own trainers, on tiny models with a LoRA adapter of
formula weights (and DPO in full). One file, preferences.json.

A trainer is made with an adapter that PEFT begins, so that its reference is the base, and the adapter's weights are set
afterwards; "start" gives it the filled adapter, whose copy TRL then takes as reference. Batches are collated by TRL (padded,
with masks) from token ids of uneven lengths; the loss is compute_loss's, the optimizer torch's AdamW.
"""
import tempfile
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from philox import integers
from record import number, numbers, versions, write
from tiny_models import build, fill_adapter, saved_name

STEPS, RANK, ALPHA, SAMPLES = 10, 4, 8, 8
TRAINING = dict(learningRate=2e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weightDecay=0.01, maxGradNorm=1.0)
# Prompt, chosen and rejected tokens of each pair of a batch.
PAIRS = [[(9, 4, 7), (2, 6, 1), (14, 3, 3)], [(5, 1, 8), (11, 9, 2)]]
# Prompt, completion, label.
RATED = [[(9, 4, True), (2, 6, False), (14, 3, True), (3, 7, False)], [(5, 2, False), (11, 9, False), (4, 4, False)]]
CASES = {
    # Model, the objective's name and options here, TRL's trainer and its arguments.
    "dpo": ("llama-gqa-tied-llama3", dict(objective="dpo", beta=0.3), DPOTrainer, dict(beta=0.3)),
    "dpo-start": ("llama-mha", dict(objective="dpo", beta=0.3, reference="start"), DPOTrainer, dict(beta=0.3)),
    "dpo-full": ("llama-mha", dict(objective="dpo", beta=0.3, method="full"), DPOTrainer, dict(beta=0.3)),
    "dpo-window": ("mistral-window", dict(objective="dpo", beta=0.2), DPOTrainer, dict(beta=0.2)),
    "ipo": ("llama-mha", dict(objective="dpo", lossType="ipo", beta=0.4), DPOTrainer, dict(loss_type="ipo", beta=0.4)),
    "hinge": ("llama-mha", dict(objective="dpo", lossType="hinge", beta=0.4), DPOTrainer, dict(loss_type="hinge", beta=0.4)),
    "robust": ("llama-mha", dict(objective="dpo", lossType="robust", beta=0.3, labelSmoothing=0.15), DPOTrainer,
               dict(loss_type="robust", beta=0.3, label_smoothing=0.15)),
    "orpo": ("llama-gqa-tied-llama3", dict(objective="orpo", beta=0.6), ORPOTrainer, dict(beta=0.6)),
    "simpo": ("llama-mha", dict(objective="simpo", beta=2.0, gamma=0.7), CPOTrainer,
              dict(loss_type="simpo", cpo_alpha=0.0, simpo_gamma=0.7, beta=2.0)),
    "cpo-simpo": ("llama-mha", dict(objective="simpo", beta=2.0, gamma=0.7, cpoAlpha=0.4, labelSmoothing=0.1), CPOTrainer,
                  dict(loss_type="simpo", cpo_alpha=0.4, simpo_gamma=0.7, beta=2.0, label_smoothing=0.1)),
    "cpo": ("llama-gqa-tied-llama3", dict(objective="cpo", beta=0.2), CPOTrainer, dict(beta=0.2)),
    "cpo-hinge": ("llama-mha", dict(objective="cpo", lossType="hinge", beta=0.2, cpoAlpha=0.5), CPOTrainer,
                  dict(loss_type="hinge", beta=0.2, cpo_alpha=0.5)),
    "cpo-ipo": ("llama-mha", dict(objective="cpo", lossType="ipo", beta=0.2), CPOTrainer, dict(loss_type="ipo", beta=0.2)),
    "kto": ("llama-mha", dict(objective="kto", beta=0.4), KTOTrainer, dict(beta=0.4)),
    "kto-weights": ("llama-gqa-tied-llama3", dict(objective="kto", beta=0.2, desirableWeight=1.2, undesirableWeight=0.7),
                    KTOTrainer, dict(beta=0.2, desirable_weight=1.2, undesirable_weight=0.7)),
}
CONFIGS = {DPOTrainer: DPOConfig, ORPOTrainer: ORPOConfig, CPOTrainer: CPOConfig, KTOTrainer: KTOConfig}


def tokenizer_of(vocab: int) -> PreTrainedTokenizerFast:
    """Words are numbers, the numbers ids."""
    core = Tokenizer(models.WordLevel({str(i): i for i in range(vocab)}, unk_token="0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="1", eos_token="2", pad_token="0", unk_token="0")


def tokens(seed: int, step: int, row: int, lengths: list) -> list:
    """Ids above the special ones."""
    return [[3 + i for i in integers(seed, 3000 + 100 * (step % 5) + 10 * row + k, n, 90)] for k, n in enumerate(lengths)]


def rows_of(case: str, seed: int, step: int) -> list:
    if case.startswith("kto"):
        made = []
        for row, (prompt, completion, label) in enumerate(RATED[step % 2]):
            p, c = tokens(seed, step, row, [prompt, completion])
            made.append({"prompt": p, "completion": c, "label": label})
        return made
    made = []
    for row, lengths in enumerate(PAIRS[step % 2]):
        p, c, r = tokens(seed, step, row, lengths)
        made.append({"prompt": p, "chosen": c, "rejected": r})
    return made


def batch_of(trainer, rows: list) -> dict:
    if isinstance(trainer, DPOTrainer):
        return trainer.data_collator([{"prompt_ids": r["prompt"], "chosen_ids": r["chosen"], "rejected_ids": r["rejected"]} for r in rows])
    if isinstance(trainer, KTOTrainer):
        last = [rows[i - 1]["completion"] for i in range(len(rows))]
        return trainer.data_collator([
            {"prompt_ids": r["prompt"], "completion_ids": r["completion"], "KL_completion_ids": k, "label": r["label"]}
            for r, k in zip(rows, last)])
    features = []
    for r in rows:
        feature = {"prompt_input_ids": r["prompt"], "prompt_attention_mask": [1] * len(r["prompt"])}
        for side in ("chosen", "rejected"):
            ids = r["prompt"] + r[side]
            feature |= {f"{side}_input_ids": ids, f"{side}_attention_mask": [1] * len(ids),
                        f"{side}_labels": [-100] * len(r["prompt"]) + r[side]}
        features.append(feature)
    return trainer.data_collator(features)


def trainer_of(case: str, model, seed: int, folder: str):
    _, options, kind, settings = CASES[case]
    text = {"prompt": ["5 6 7"] * 4, "chosen": ["8 9"] * 4, "rejected": ["10"] * 4}
    if kind is KTOTrainer:
        text = {"prompt": ["5 6 7"] * 4, "completion": ["8 9"] * 4, "label": [True, False] * 2}
    adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    start = options.get("reference") == "start"
    if start:
        model = get_peft_model(model, adapter)
        fill_adapter(model, seed)
    more = dict(train_sampling_strategy="sequential") if kind is KTOTrainer else {}
    arguments = CONFIGS[kind](
        output_dir=folder, use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, report_to=[],
        per_device_train_batch_size=4, max_length=512, **more, **settings)
    full = options.get("method") == "full"
    trainer = kind(model=model, args=arguments, train_dataset=Dataset.from_dict(text),
                   processing_class=tokenizer_of(model.config.vocab_size),
                   **({"ref_model": build(CASES[case][0])} if full else {} if start else {"peft_config": adapter}))
    if not start and not full:
        fill_adapter(trainer.model, seed)
    return trainer


def metrics_of(trainer) -> dict:
    held = trainer._metrics["train"] if hasattr(trainer, "_metrics") else trainer._stored_metrics["train"]
    names = {"rewards/chosen": "rewardsChosen", "rewards/rejected": "rewardsRejected", "rewards/accuracies": "rewardAccuracy",
             "rewards/margins": "rewardMargin", "kl": "kl", "nll_loss": "chosenLoss"}
    found = {ours: number(held[theirs][-1], 9) for theirs, ours in names.items() if held.get(theirs)}
    held.clear()
    return found


def sampled(gradient) -> dict:
    """Its norm and largest magnitude, and some entries."""
    flat = gradient.flatten()
    stride = max(1, flat.numel() // SAMPLES)
    return {"norm": number(gradient.norm()), "max": number(flat.abs().max()), "stride": stride,
            "entries": numbers(flat[::stride][:SAMPLES], 8)}


def golden(case: str) -> dict:
    name, options, _, _ = CASES[case]
    seed = 700 + list(CASES).index(case)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(case, build(name), seed, folder)
    model = trainer.model
    model.train()
    parameters = {saved_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    parameters = {n: p for n, p in sorted(parameters.items()) if ".ref." not in n}
    optimizer = torch.optim.AdamW(
        list(parameters.values()), lr=TRAINING["learningRate"], betas=(TRAINING["beta1"], TRAINING["beta2"]),
        eps=TRAINING["epsilon"], weight_decay=TRAINING["weightDecay"])
    steps, gradients = [], {}
    for step in range(STEPS):
        rows = rows_of(case, seed, step)
        optimizer.zero_grad(set_to_none=True)
        loss = trainer.compute_loss(model, batch_of(trainer, rows))
        loss.backward()
        if step == 0:
            gradients = {n: p.grad.detach().clone() for n, p in parameters.items()}
        norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), TRAINING["maxGradNorm"])
        optimizer.step()
        steps.append({"rows": rows, "loss": number(loss.item()), "gradNorm": number(norm.item()), "metrics": metrics_of(trainer)})
    full = options.get("method") == "full"
    return {
        "model": name, "seed": seed, "options": options,
        "adapter": [] if full else [{"name": n, "shape": list(g.shape)} for n, g in gradients.items()],
        "gradients": {n: sampled(g) for n, g in gradients.items()},
        "steps": steps,
    }


def main() -> None:
    torch.set_num_threads(1)
    content = {"versions": versions("torch", "transformers", "peft", "trl", "numpy"), "rank": RANK, "alpha": ALPHA,
               "training": TRAINING, "cases": {case: golden(case) for case in CASES}}
    write("preferences.json", content)


if __name__ == "__main__":
    main()
