"""What the card can do at most, and bitsandbytes' products at the shapes of a 7B: copies, cuBLAS, matmul_4bit. JSON lines."""

import json

import torch

SHAPES = [(1024, 4096, 4096), (1024, 11008, 4096), (1024, 4096, 11008)]


def seconds(call, count=30):
    """Of one call, over `count` of them between two events."""
    for _ in range(5):
        call()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / count / 1000


source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
target = torch.empty_like(source)
copy = 2 * source.numel() / seconds(lambda: target.copy_(source)) / 1e12
print(json.dumps({"ceiling": "copy", "device": torch.cuda.get_device_name(0), "terabytesPerSecond": copy}), flush=True)
del source, target

try:
    import bitsandbytes
    import bitsandbytes.functional as functional
except ImportError as problem:
    print(json.dumps({"ceiling": "bitsandbytes", "problem": str(problem)}), flush=True)
    bitsandbytes = None

for rows, outputs, inputs in SHAPES:
    weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) * 0.02
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    dy = torch.randn(rows, outputs, device="cuda", dtype=torch.bfloat16)
    flops = 2e-12 * rows * outputs * inputs
    found = {"ceiling": "products", "rows": rows, "outputs": outputs, "inputs": inputs}
    found["cublasTflops"] = flops / seconds(lambda: x @ weight.t())
    if bitsandbytes:
        codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        found["forwardTflops"] = flops / seconds(lambda: bitsandbytes.matmul_4bit(x, codes.t(), quant_state=state))
        # What its autograd does backward: dequantise, then multiply.
        back = lambda: dy @ functional.dequantize_4bit(codes, state).to(dy.dtype)
        found["inputTflops"] = flops / seconds(back)
    print(json.dumps(found), flush=True)
