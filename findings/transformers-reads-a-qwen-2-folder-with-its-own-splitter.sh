#!/usr/bin/env bash
# What: AutoTokenizer of transformers 5.24.0 reads tokenizer.json as it stands for 800 model types, but not where config.json
#   beside it says qwen2, qwen3_5 or qwen3_5_moe (and the latter's text types): whatever tokenizer_class says, also
#   TokenizersBackend, which it wrote itself, it takes the vocabulary and merges alone and splits text by Qwen's own rule,
#   in which each digit is a word. A tokenizer that one trained for a small model of the Qwen 2 shape has other ids after
#   save_pretrained and AutoTokenizer.from_pretrained. Nothing is said, and the next save writes Qwen's rule into tokenizer.json.
# Why it matters: a model trained by the tokenizer in hand is evaluated, fine-tuned or exported by another one as soon as the
#   two lie in one folder; the same tokenizer beside a Llama, Qwen 2 MoE or Qwen 3 is right. PreTrainedTokenizerFast reads the file.
# Seen: {'trained': ['year', 'Ġ2026'], 'alone': ['year', 'Ġ2026'], 'llama': ['year', 'Ġ2026'], 'qwen2_moe': ['year', 'Ġ2026'],
#   'qwen3': ['year', 'Ġ2026'], 'qwen2': ['year', 'Ġ', '2', '0', '2', '6'], 'qwen3_5': ['year', 'Ġ', '2', '0', '2', '6'],
#   'qwen2, saved again': ['year', 'Ġ', '2', '0', '2', '6'], 'qwen2, PreTrainedTokenizerFast': ['year', 'Ġ2026']}
# Runs without lowrank, on a vocabulary of some 300 tokens; half a minute, no torch. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3

WORK="$folder" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import json
import os

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

transformers.logging.set_verbosity_error()
text = "year 2026"
plain = Tokenizer(models.BPE())
plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
plain.decoder = decoders.ByteLevel()
plain.train_from_iterator(
    ["year 2026 year 2026 "] * 20,
    trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    ),
)
trained = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>")


def saved(model_type):
    folder = f"{os.environ['WORK']}/{model_type}"
    trained.save_pretrained(folder)
    with open(f"{folder}/tokenizer_config.json") as file:
        assert json.load(file)["tokenizer_class"] == "TokenizersBackend"
    if model_type != "alone":
        with open(f"{folder}/config.json", "w") as file:
            json.dump({"model_type": model_type}, file)
    return folder


def split(tokenizer):
    return tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)


seen = {"trained": split(trained)}
for model_type in ("alone", "llama", "qwen2_moe", "qwen3", "qwen2", "qwen3_5"):
    seen[model_type] = split(AutoTokenizer.from_pretrained(saved(model_type)))
again = f"{os.environ['WORK']}/again"
AutoTokenizer.from_pretrained(saved("qwen2")).save_pretrained(again)
encoded = Tokenizer.from_file(f"{again}/tokenizer.json").encode(text)
seen["qwen2, saved again"] = encoded.tokens
seen["qwen2, PreTrainedTokenizerFast"] = split(PreTrainedTokenizerFast.from_pretrained(saved("qwen2")))
print(seen)
whole, digits = ["year", "Ġ2026"], ["year", "Ġ", "2", "0", "2", "6"]
changed = ("qwen2", "qwen3_5", "qwen2, saved again")
expected = {name: digits if name in changed else whole for name in seen}
assert seen == expected, f"the behavior has changed; it was {expected}"
PY
