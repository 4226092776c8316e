"""Golden of bitsandbytes' 4-bit checkpoints: every tensor that one Linear4bit layer saves, byte for byte, and the
weight that bitsandbytes itself dequantises from it. Output: test/golden/bnb-files.json.
"""
import warnings
import bitsandbytes as bnb
import bitsandbytes.functional as F
import numpy as np
import torch
from philox import uniform
from record import array, versions, write

SEED = 1700
SHAPES = {"whole blocks": (24, 72), "an odd count and a partial block": (9, 15)}


def main():
    warnings.simplefilter("ignore")
    cases = []
    for stream, (title, shape) in enumerate(SHAPES.items()):
        values = torch.tensor(uniform(SEED, stream, shape, 0.5))
        for quant_type in ("nf4", "fp4"):
            for nested in (True, False):
                layer = bnb.nn.Linear4bit(
                    shape[1], shape[0], bias=False, quant_type=quant_type, compress_statistics=nested, compute_dtype=torch.float32
                )
                layer.weight = bnb.nn.Params4bit(
                    values.to(torch.bfloat16), requires_grad=False, quant_type=quant_type, compress_statistics=nested
                )
                layer = layer.to("cpu")
                tensors = {}
                for name, tensor in sorted(layer.state_dict().items()):
                    raw = np.frombuffer(tensor.contiguous().numpy().tobytes(), dtype=np.uint8)
                    dtype = {torch.uint8: "U8", torch.float32: "F32"}[tensor.dtype]
                    tensors[name] = {"dtype": dtype, "shape": list(tensor.shape), "bytes": array(raw)}
                state = layer.weight.quant_state
                state.dtype = torch.float32
                cases.append({
                    "name": f"{quant_type}{' nested' if nested else ''}, {title}",
                    "shape": list(shape),
                    "tensors": tensors,
                    "dequantized": array(F.dequantize_4bit(layer.weight.data, state)),
                })
    write("bnb-files.json", {"versions": versions("bitsandbytes", "torch"), "cases": cases})


if __name__ == "__main__":
    main()
