#!/usr/bin/env bash
# What: trl 1.16.0's DPOTrainer, KTOTrainer and RewardTrainer have disable_dropout=True and go by it after the adapter has been
#   put on: LoraConfig(lora_dropout=0.1) trains with no dropout at all, a model that comes with its adapter likewise.
#   SFTTrainer and GRPOTrainer train with it. The configuration in memory and the adapter_config.json that is saved say 0.1 in
#   every case, and nothing is said.
# Why it matters: a rate of dropout that is searched for, reported or reproduced with a preference loss does nothing, and one of SFT
#   cannot be carried over: whoever trains the same files by another tool sees other losses and looks for the fault there.
# Seen: {'sft': {'applied': [0.1], 'saved': 0.1}, 'grpo': {'applied': [0.1], 'saved': 0.1}, 'dpo': {'applied': [0], 'saved': 0.1},
#   'dpo, adapter before': {'applied': [0], 'saved': 0.1}, 'kto': {'applied': [0], 'saved': 0.1}, 'reward': {'applied': [0], 'saved': 0.1}}
# Runs without lowrank, on random weights; some minutes and 6 GB for torch. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2 trl==1.16.0

WORK="$folder" "$folder/venv/bin/python" - <<'PY'
import json
import os

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import (
    DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer,
)

transformers.logging.set_verbosity_error()
words = {f"w{i}": i for i in range(60)} | {"<unk>": 60, "<pad>": 61, "</s>": 62}
plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
shape = LlamaConfig(
    vocab_size=63, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, pad_token_id=61, num_labels=1,
)
pair = {"prompt": "w1", "chosen": " w2", "rejected": " w3"}
rated = [{"prompt": "w1", "completion": f" w{2 + i % 2}", "label": i % 2 == 0} for i in range(4)]


def lora():
    return LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj"])


def seen_of(trainer_class, config_class, rows, model_class=LlamaForCausalLM, adapter_before=False, **options):
    folder = f"{os.environ['WORK']}/{trainer_class.__name__}"
    model = model_class(shape)
    settings = {"use_cpu": True, "bf16": False, "report_to": []}
    trainer = trainer_class(
        model=get_peft_model(model, lora()) if adapter_before else model,
        args=config_class(output_dir=folder, **settings),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        peft_config=None if adapter_before else lora(),
        **options,
    )
    trainer.save_model(folder)
    applied = {m.p for name, m in trainer.model.named_modules() if "lora_dropout" in name and isinstance(m, torch.nn.Dropout)}
    with open(f"{folder}/adapter_config.json") as file:
        return {"applied": sorted(applied), "saved": json.load(file)["lora_dropout"]}


seen = {
    "sft": seen_of(SFTTrainer, SFTConfig, [{"text": "w1 w2"}] * 4),
    "grpo": seen_of(GRPOTrainer, GRPOConfig, [{"prompt": "w1"}] * 8, reward_funcs=lambda completions, **_: [0.0] * len(completions)),
    "dpo": seen_of(DPOTrainer, DPOConfig, [pair] * 4),
    "dpo, adapter before": seen_of(DPOTrainer, DPOConfig, [pair] * 4, adapter_before=True),
    "kto": seen_of(KTOTrainer, KTOConfig, rated),
    "reward": seen_of(RewardTrainer, RewardConfig, [pair] * 4, model_class=LlamaForSequenceClassification),
}
print(seen)
expected = {
    name: {"applied": [0.1] if name in ("sft", "grpo") else [0], "saved": 0.1} for name in seen
}
assert seen == expected, f"the behavior has changed; it was {expected}"
PY
