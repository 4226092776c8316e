#!/usr/bin/env bash
# What: trl 1.16.0's packing=True hands a model several rows end to end with position_ids that begin anew and no attention mask.
#   transformers 5.24.0 makes a mask of that which keeps the rows apart, with "eager" and "sdpa" attention as well, for Llama and
#   most others. GptOssModel and AfmoeModel do not hand position_ids to the functions that make the mask: each row attends to all
#   rows before it, at positions that repeat. gpt-oss has no "sdpa", so "eager" is what it is loaded with. No message, where the
#   families with short convolutions (LFM2, Qwen 3.5) refuse packing without their kernels.
# Why it matters: a run that was right for Qwen 3 trains gpt-oss on rows mixed with others, by how the packer happened to lay them.
#   trl's documentation asks for FlashAttention with packing, but code does not.
# Seen: {'llama': ('sdpa', ['apart', 'apart', 'apart', 'apart']), 'llama, eager': ('eager', ['apart', 'apart', 'apart', 'apart']),
#   'gpt_oss': ('eager', ['apart', 'mixed', 'mixed', 'mixed']), 'afmoe': ('sdpa', ['apart', 'mixed', 'mixed', 'mixed'])}
# Runs without lowrank, on random weights; some minutes and 6 GB for torch. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 trl==1.16.0

WORK="$folder" "$folder/venv/bin/python" - <<'PY'
import os

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AfmoeConfig, AutoModelForCausalLM, GptOssConfig, LlamaConfig, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

transformers.logging.set_verbosity_error()
length, rows = 16, 4
words = {f"w{i}": i for i in range(60)} | {"<unk>": 60, "<pad>": 61, "</s>": 62}
plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
data = Dataset.from_list([{"input_ids": [(7 * row + 3 * i) % 60 for i in range(length)]} for row in range(rows)])
shape = {
    "vocab_size": 63, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
}


def seen_of(config, **options):
    """For each row of a packed training batch: are its last hidden states those of the row alone?"""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, **options)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.25)
    seen = {}

    def see_ids(module, args, kwargs):
        seen.setdefault("ids", kwargs["input_ids"][0])

    def see_states(module, args, output):
        seen.setdefault("states", output[0].detach().clone())

    hooks = [
        model.register_forward_pre_hook(see_ids, with_kwargs=True),
        model.model.norm.register_forward_hook(see_states),
    ]
    settings = SFTConfig(
        output_dir=os.environ["WORK"] + "/run", max_steps=1, per_device_train_batch_size=2, packing=True, max_length=2 * length,
        learning_rate=0.0, use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, save_strategy="no",
    )
    SFTTrainer(model=model, processing_class=tokenizer, train_dataset=data, args=settings).train()
    for hook in hooks:
        hook.remove()
    assert len(seen["ids"]) == rows * length, "the rows are one after the other"
    found = []
    with torch.no_grad():
        for start in range(0, rows * length, length):
            alone = model.model(seen["ids"][None, start : start + length]).last_hidden_state[0]
            difference = (alone - seen["states"][start : start + length]).abs().max().item()
            found.append("apart" if difference < 1e-4 else "mixed")
    return model.config._attn_implementation, found


experts = {"num_experts_per_tok": 2}
seen = {
    "llama": seen_of(LlamaConfig(**shape)),
    "llama, eager": seen_of(LlamaConfig(**shape), attn_implementation="eager"),
    "gpt_oss": seen_of(GptOssConfig(**shape, **experts, num_local_experts=4)),
    "afmoe": seen_of(AfmoeConfig(**shape, **experts, num_experts=4, moe_intermediate_size=16, num_dense_layers=1)),
}
print(seen)
apart, mixed = ["apart"] * rows, ["apart"] + ["mixed"] * (rows - 1)
expected = {
    "llama": ("sdpa", apart), "llama, eager": ("eager", apart), "gpt_oss": ("eager", mixed), "afmoe": ("sdpa", mixed),
}
assert seen == expected, f"the behavior has changed; it was {expected}"
PY
