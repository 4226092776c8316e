"""The other side: QLoRA steps by PEFT and bitsandbytes on random weights, built on the card layer by layer. One JSON line.

Every step is waited for before its time is taken; "gpuMs" is the sum of its kernels' times in one step more, by the profiler.
"""

import argparse
import json
import time

parser = argparse.ArgumentParser()
parser.add_argument("--config", required=True)
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--length", type=int, default=1024)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--checkpointing", default="off", choices=["on", "off"])
options = parser.parse_args()

import bitsandbytes
import torch
import transformers
from peft import LoraConfig, get_peft_model

torch.manual_seed(0)
DTYPE = torch.bfloat16
config = transformers.AutoConfig.for_model(**json.load(open(options.config)))
config.use_cache = False
with torch.device("meta"):
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=DTYPE, attn_implementation="sdpa")


def quantized(linear):
    """A 4-bit layer of random weights with the shape of this one."""
    weight = torch.randn(linear.out_features, linear.in_features, dtype=DTYPE, device="cuda") * 0.02
    layer = bitsandbytes.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=DTYPE, quant_type="nf4", device="meta"
    )
    layer.weight = bitsandbytes.nn.Params4bit(
        weight, requires_grad=False, quant_type="nf4", compress_statistics=True
    ).to("cuda")
    return layer


def place(module):
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Linear) and name != "lm_head":
            setattr(module, name, quantized(child))
        else:
            place(child)


def fill(module):
    for name, parameter in list(module.named_parameters(recurse=False)):
        if parameter.is_meta:
            shape = dict(dtype=DTYPE, device="cuda")
            value = torch.ones(parameter.shape, **shape) if parameter.dim() == 1 else torch.randn(parameter.shape, **shape) * 0.02
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_meta:
            module.register_buffer(name, getattr(type(module)(config), name).to("cuda"), persistent=False)


place(model)
for each in model.modules():
    fill(each)
model.is_loaded_in_4bit = True
if options.checkpointing == "on":
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(model, lora).train()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4)


def step():
    ids = torch.randint(0, config.vocab_size, (options.batch, options.length), device="cuda")
    optimizer.zero_grad(set_to_none=True)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return loss


times = []
for i in range(3 + options.steps):
    torch.cuda.synchronize()
    begin = time.perf_counter()
    loss = step()
    torch.cuda.synchronize()
    if i >= 3:
        times.append(1000 * (time.perf_counter() - begin))
times.sort()
result = {
    "peft": options.config.split("/")[-1],
    "batch": options.batch,
    "length": options.length,
    "checkpointing": options.checkpointing,
    "torch": torch.__version__,
    "bitsandbytes": bitsandbytes.__version__,
    "bestMs": times[0],
    "medianMs": times[len(times) // 2],
    "peakBytes": torch.cuda.max_memory_allocated(),
    "loss": float(loss),
}
try:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    kernels = [event for event in profiled.events() if str(event.device_type).endswith("CUDA")]
    result["gpuMs"] = sum(event.time_range.elapsed_us() for event in kernels) / 1000
    result["gpuKernels"] = len(kernels)
except Exception as error:  # a profiler that is not allowed costs these two figures alone
    result["profile"] = repr(error)[:200]
print(json.dumps(result), flush=True)
