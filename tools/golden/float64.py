"""Runs transformers' LLaMA-family models in float64.

Their code casts norms and the softmax to torch.float32 whatever the model's dtype; here those casts become
float64. RoPE tables stay float32, as in every engine compared.
"""
import contextlib
import torch
from transformers.models.lfm2 import modeling_lfm2
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_5 import modeling_qwen3_5


class Float64Torch:
    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def float64_arithmetic():
    modules = [modeling_llama, modeling_mistral, modeling_qwen2, modeling_qwen3, modeling_qwen3_5,
               modeling_lfm2]
    for module in modules:
        module.torch = Float64Torch()
    single, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = single
        for module in modules:
            module.torch = torch
