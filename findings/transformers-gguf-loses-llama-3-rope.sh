#!/usr/bin/env bash
# What: llama.cpp's converter writes the RoPE scaling of Llama 3.1, 3.2 and 3.3 as a tensor, rope_freqs.weight (what each
#   frequency is divided by), and no metadata. from_pretrained(gguf_file=...) of transformers 5.24.0 leaves that tensor out
#   without a word and says rope_type "default": the model that it loads turns its slow frequencies 8 times too fast.
# Why it matters: short texts come out nearly right and long ones wrong, so that the loss is put down to quantisation, and a
#   folder saved from it has the wrong config.json for good: fine-tuned on, it learns to make up for that.
# Seen: {'stored': {'rope_type': 'llama3', 'factor': 8.0}, 'loaded': {'rope_type': 'default', 'factor': None},
#   'slowest frequency, loaded / stored': 8.0, 'weights': 'equal', 'messages about rope_freqs': 0}
# Runs without lowrank, on random weights and a file written by gguf 0.19.0 as the converter writes it; some minutes and 6 GB
#   for torch. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0

WORK="$folder" "$folder/venv/bin/python" - <<'PY'
import logging
import os
import warnings

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

messages = []


class Keep(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())


transformers.logging.set_verbosity_info()
transformers.logging.get_logger("transformers").addHandler(Keep())
warnings.showwarning = lambda message, *rest: messages.append(str(message))
torch.manual_seed(0)
width, heads, theta = 32, 2, 500000.0
half = width // heads // 2
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=64, hidden_size=width, intermediate_size=48, num_hidden_layers=1, num_attention_heads=heads,
        num_key_value_heads=heads, max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": theta, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    )
)
names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
parts = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}
names.update({f"model.layers.0.{name}": f"blk.0.{short}" for name, short in parts.items()})
writer = gguf.GGUFWriter(os.environ["WORK"] + "/model.gguf", "llama")
writer.add_context_length(131072)
writer.add_embedding_length(width)
writer.add_block_count(1)
writer.add_feed_forward_length(48)
writer.add_head_count(heads)
writer.add_head_count_kv(heads)
writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
writer.add_rope_freq_base(theta)
writer.add_rope_dimension_count(width // heads)
writer.add_vocab_size(64)
writer.add_file_type(gguf.LlamaFileType.ALL_F32)
for name, tensor in model.state_dict().items():
    short, numbers = names[name.removesuffix(".weight")], tensor.numpy()
    if short in ("blk.0.attn_q", "blk.0.attn_k"):
        numbers = numbers.reshape(heads, 2, half, width).swapaxes(1, 2).reshape(width, width)
    writer.add_tensor(f"{short}.weight", np.ascontiguousarray(numbers))
plain = 1 / theta ** (torch.arange(0, 2 * half, 2) / (2 * half))
factors = plain / model.model.rotary_emb.inv_freq
writer.add_tensor("rope_freqs.weight", factors.numpy().astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

loaded = AutoModelForCausalLM.from_pretrained(os.environ["WORK"], gguf_file="model.gguf")


def rope(of):
    return {key: of.config.rope_parameters.get(key) for key in ("rope_type", "factor")}


stored = model.state_dict()
equal = all(torch.equal(tensor, stored[name]) for name, tensor in loaded.state_dict().items())
ratio = (loaded.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq)[-1].item()
seen = {
    "stored": rope(model),
    "loaded": rope(loaded),
    "slowest frequency, loaded / stored": round(ratio, 3),
    "weights": "equal" if equal else "others",
    "messages about rope_freqs": sum("rope_freqs" in message for message in messages),
}
print(seen)
expected = {
    "stored": {"rope_type": "llama3", "factor": 8.0},
    "loaded": {"rope_type": "default", "factor": None},
    "slowest frequency, loaded / stored": 8.0,
    "weights": "equal",
    "messages about rope_freqs": 0,
}
assert seen == expected, f"the behavior has changed; it was {expected}"
PY
