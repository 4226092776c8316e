#!/usr/bin/env bash
# What: with trl 1.16.0 and transformers 5.24.0, neftune_noise_alpha=5 gives the same four rows of 32 tokens noise of at
#   most alpha / sqrt(32 d) = 0.1105 as a plain batch, and half of it with packing=True or padding_free=True. The hook
#   divides by the length of the embedding's second axis, and these options lay all rows of a batch end to end there: the
#   noise falls with the square root of the batch. A short row beside a longer one gets the longer one's noise, too.
# Why it matters: packing and padding_free are meant to change speed and memory alone; turning one on, or making the batch
#   larger, silently turns NEFTune down, and runs that say the same alpha are not comparable.
# Seen: {'apart': 0.1105, 'packing': 0.0552, 'padding_free': 0.0552}
# Runs without lowrank, on random weights; some minutes and 6 GB for torch. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 trl==1.16.0

"$folder/venv/bin/python" - <<'PY'
import tempfile

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

transformers.logging.set_verbosity_error()
alpha, width, length, rows = 5.0, 64, 32, 4
words = {f"w{i}": i for i in range(200)} | {"<unk>": 200, "<pad>": 201, "</s>": 202}
plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
)
data = Dataset.from_list(
    [{"input_ids": [(7 * row + i) % 200 for i in range(length)]} for row in range(rows)]
)


def largest_noise(**options):
    """The most that the first layer's input differs from the embedding's rows in a training step."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=203, hidden_size=width, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
        )
    )
    seen = {}

    def see_ids(module, args, kwargs):
        seen.setdefault("ids", kwargs["input_ids"])

    def see_input(module, args, kwargs):
        seen.setdefault("x", args[0].detach().clone())

    model.register_forward_pre_hook(see_ids, with_kwargs=True)
    model.model.layers[0].register_forward_pre_hook(see_input, with_kwargs=True)
    with tempfile.TemporaryDirectory() as out:
        settings = SFTConfig(
            output_dir=out, max_steps=1, per_device_train_batch_size=rows, neftune_noise_alpha=alpha,
            learning_rate=0.0, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no",
            gradient_checkpointing=False, **{"max_length": 128, **options},
        )
        SFTTrainer(model=model, processing_class=tokenizer, train_dataset=data, args=settings).train()
    return round((seen["x"] - model.model.embed_tokens.weight[seen["ids"]]).abs().max().item(), 4)


seen = {
    "apart": largest_noise(),
    "packing": largest_noise(packing=True),
    "padding_free": largest_noise(padding_free=True, max_length=None),
}
print(seen)
expected = {"apart": 0.1105, "packing": 0.0552, "padding_free": 0.0552}
assert seen == expected, f"the behavior has changed; it was {expected}"
PY
